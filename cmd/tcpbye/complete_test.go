package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// completions are what is typed, and what each shell must offer for it.
var completions = []struct {
	words []string // the last one is completed
	want  []string
	not   string
}{
	{[]string{"trace", "--cause", "close-"}, []string{"close-unread", "close-wait-leak"}, "orderly-close"},
	{[]string{"trace", "--cause", "linger-zero,close-u"}, []string{"linger-zero,close-unread"}, ""},
	{[]string{"rst", "--class", "a"}, []string{"aborted"}, "refused"},
	{[]string{"trace", "--fail-on", "una"}, []string{"unanswered"}, ""},
	{[]string{"trace", "-o", "time"}, []string{"timeline"}, "resets"},
	{[]string{"rst", "-o", "r"}, []string{"resets"}, ""},
	{[]string{"trace", "--attach", "k"}, []string{"kprobe"}, "fentry"},
	{[]string{"explain", "close-u"}, []string{"close-unread"}, ""},
	{[]string{"explain", "tcp_f"}, []string{"tcp_fin_timeout"}, ""},
	{[]string{"demo", "shutd"}, []string{"shutdown"}, ""},
	{[]string{"trace", "-p", strconv.Itoa(os.Getpid())}, []string{strconv.Itoa(os.Getpid())}, ""},
	{[]string{"to"}, []string{"top"}, "trace"},
}

// TestCompletions: the shells themselves complete what there is.
func TestCompletions(t *testing.T) {
	for shell, complete := range map[string]func(t *testing.T, words []string) string{"bash": inBash, "fish": inFish, "zsh": nil} {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("%s is not installed (make compilers installs it)", shell)
			}
			if shell == "zsh" {
				complete = newZsh(t).complete
			}
			for _, c := range completions {
				got := strings.ReplaceAll(complete(t, c.words), `\`, "") // which a shell may put before a comma
				for _, want := range c.want {
					// zsh completes the one that there is with what follows.
					if !strings.Contains(got, want) {
						t.Errorf("%q: %q is not offered: %q", c.words, want, got)
					}
				}
				if c.not != "" && strings.Contains(got, c.not) {
					t.Errorf("%q: %q is offered: %q", c.words, c.not, got)
				}
			}
		})
	}
}

// shellOut is what a shell's script says.
func shellOut(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%s: %v: %s", name, err, exit.Stderr)
		}
		t.Fatal(err)
	}
	return string(out)
}

func inBash(t *testing.T, words []string) string {
	t.Helper()
	const script = `
. /usr/share/bash-completion/bash_completion
. <(tcpbye completion bash)
COMP_WORDS=(tcpbye "$@"); COMP_CWORD=$#
COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
__start_tcpbye
printf '%s\n' "${COMPREPLY[@]}"`
	return shellOut(t, "bash", append([]string{"-c", script, "bash"}, words...)...)
}

func inFish(t *testing.T, words []string) string {
	t.Helper()
	return shellOut(t, "fish", "--no-config", "-c", fmt.Sprintf("tcpbye completion fish | source; complete -C 'tcpbye %s'", strings.Join(words, " ")))
}

// zsh completes on a terminal only.
type zsh struct {
	shown *shownOn
	at    int
	write func(text string)
}

// newZsh starts one.
func newZsh(t *testing.T) *zsh {
	t.Helper()
	master, slave := terminal(t, 200)
	z := &zsh{shown: watch(master)}
	cmd := exec.Command("zsh", "-f", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "PS1=ready>", "TERM=dumb", "HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	z.write = func(text string) {
		t.Helper()
		if _, err := io.WriteString(master, text); err != nil {
			t.Fatal(err)
		}
	}
	z.at = z.shown.wait(t, "ready>", 0)
	z.write("PS1=on'>'; unsetopt beep; autoload -U compinit; compinit -u -D; source <(tcpbye completion zsh); compdef _tcpbye tcpbye\n")
	z.at = z.shown.wait(t, "on>", z.at)
	return z
}

// complete types a line and a tab; what was offered, or completed, is on the screen.
func (z *zsh) complete(t *testing.T, words []string) string {
	t.Helper()
	from := z.at
	z.write("tcpbye " + strings.Join(words, " ") + "\t")
	z.write("\x15echo do''ne\n") // away with the line
	z.shown.wait(t, "done\r\n", from)
	if t.Failed() {
		t.FailNow()
	}
	z.at = z.shown.wait(t, "on>", from+strings.Index(z.shown.String()[from:], "done\r\n"))
	return z.shown.String()[from:z.at]
}

// TestManPages: mandoc finds nothing to say about them.
func TestManPages(t *testing.T) {
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Skip("mandoc is not installed (make compilers installs it)")
	}
	dir := t.TempDir()
	if out, err := exec.Command("tcpbye", "man", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 8 {
		t.Fatal(pages, err)
	}
	if out, err := exec.Command("mandoc", append([]string{"-T", "lint"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v:\n%s", err, out)
	}
	text := shellOut(t, "mandoc", "-T", "utf8", filepath.Join(dir, "tcpbye-trace.1"))
	for _, want := range []string{"EXAMPLES", "--container", "EXIT STATUS", "tcpbye-rst(1)", "^C stops"} {
		if !strings.Contains(plainMan(text), want) {
			t.Errorf("the page of trace does not say %s", want)
		}
	}
}

// plainMan is a page without the backspaces that make it bold.
func plainMan(text string) string {
	var b []rune
	for _, r := range text {
		if r == '\b' {
			b = b[:len(b)-1]
			continue
		}
		b = append(b, r)
	}
	return string(b)
}
