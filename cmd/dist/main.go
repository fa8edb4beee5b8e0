// Command dist makes the release of a commit: for each architecture a static
// program in a tar.gz, a deb and an rpm, and their sums.
//
// It builds from a clone of the commit, never from the files as they lie in the
// checkout, and takes every date from the commit: who has the commit and the
// same Go gets the same bytes.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{progress: stderr}
	cmd := &cobra.Command{
		Use:   "dist",
		Short: "Make the packages of a commit",
		Long: `Build tcpbye as it is in a commit, for each architecture, and write into the
output directory a tar.gz, a deb, an rpm, and SHA256SUMS. What is not committed
is not in them. Earlier packages in that directory are removed.

The version is the one that the go command gives the commit: its tag, or a
pseudo-version. Needs git and the network or a module cache.`,
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := dist(cmd.Context(), o)
			for _, f := range files {
				fmt.Fprintln(stdout, f)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "out", "o", "dist", "write into `DIR`")
	f.StringVar(&o.source, "source", ".", "the git checkout")
	f.StringVar(&o.commit, "commit", "HEAD", "the commit to package")
	f.StringSliceVar(&o.arches, "arch", architectures, "architectures, as Go calls them")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "dist:", err)
		return 1
	}
	return 0
}
