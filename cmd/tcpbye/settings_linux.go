package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// settings fills flags from three places, of which the first one that has a setting
// wins: the command line, the environment, a file. The names are the flags' own: in the
// environment otlp-queue is TCPBYE_OTLP_QUEUE, and in the file a line is
//
//	otlp-queue = /var/lib/tcpbye/otlp
//
// A flag that may be given several times may stand on several lines. A value in double
// quotes is read as Go reads one; # begins a comment at the start of a line or after a space.
type settings struct {
	getenv func(string) string
	// only are flags that are no settings: they say what this one call is to do.
	only []string
	// given is what the command line had, by the name of the flag.
	given map[string][]string
}

// newSettings takes what the command line gave, which it wins with again each time.
func newSettings(flags *pflag.FlagSet, getenv func(string) string, only ...string) *settings {
	s := &settings{getenv: getenv, only: append(only, "help"), given: map[string][]string{}}
	flags.Visit(func(f *pflag.Flag) { s.given[f.Name] = given(f) })
	return s
}

// given is what a flag was set to, each as Set takes it.
func given(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	return []string{f.Value.String()}
}

// fill sets the flags of a set that is new, or that the command line filled. path is
// that of the file; must says that it has to be there.
func (s *settings) fill(flags *pflag.FlagSet, path string, must bool) error {
	for name, values := range s.given {
		if flags.Changed(name) {
			continue
		}
		for _, v := range values {
			if err := set(flags, name, v); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
		}
	}
	env := map[string]bool{}
	var bad error
	flags.VisitAll(func(f *pflag.Flag) {
		v := s.getenv(variable(f.Name))
		if v == "" || s.special(f.Name) {
			return
		}
		if env[f.Name] = true; !flags.Changed(f.Name) && bad == nil {
			if err := set(flags, f.Name, v); err != nil {
				bad = fmt.Errorf("%s: %w", variable(f.Name), err)
			}
		}
	})
	if bad != nil || path == "" {
		return bad
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	return s.file(flags, path, text, env)
}

// variable is the name of a setting in the environment.
func variable(name string) string {
	return "TCPBYE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func (s *settings) special(name string) bool {
	return slices.Contains(s.only, name)
}

// file reads the file's lines. All that is wrong in it is told at once.
func (s *settings) file(flags *pflag.FlagSet, path string, text []byte, env map[string]bool) error {
	var wrong []error
	lines := map[string]int{} // where a setting stood first
	scan := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; scan.Scan(); n++ {
		name, value, err := setting(scan.Text())
		if name == "" && err == nil {
			continue
		}
		if err == nil {
			err = s.line(flags, name, value, lines, env)
			if lines[name] == 0 {
				lines[name] = n
			}
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", path, n, err))
		}
	}
	if err := scan.Err(); err != nil {
		wrong = append(wrong, fmt.Errorf("%s: %w", path, err))
	}
	return errors.Join(wrong...)
}

// setting reads a line; an empty name: there is none in it.
func setting(line string) (name, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	name, value, ok := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" {
		if start := shownName(name); start != "" {
			return "", "", fmt.Errorf("%q: want NAME = VALUE", start)
		}
		return "", "", errors.New("want NAME = VALUE")
	}
	if strings.HasPrefix(value, `"`) {
		quoted, err := strconv.QuotedPrefix(value)
		rest := strings.TrimSpace(strings.TrimPrefix(value, quoted))
		if err != nil || rest != "" && rest[0] != '#' {
			return "", "", fmt.Errorf("%q: the quotes of its value do not end, or something follows them", shownName(name))
		}
		value, err = strconv.Unquote(quoted)
		return name, value, err
	}
	if i := strings.Index(value, " #"); i >= 0 {
		value = strings.TrimSpace(value[:i])
	}
	return name, value, nil
}

// shownName is what of a name may be shown. A line that is wrong may have a secret where
// its name should be, so it is only what looks like one.
func shownName(name string) string {
	rest := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz-")
	if rest == "" || rest == name {
		return strings.TrimSuffix(name, rest)
	}
	return strings.TrimSuffix(name, rest) + "…"
}

func (s *settings) line(flags *pflag.FlagSet, name, value string, lines map[string]int, env map[string]bool) error {
	f := flags.Lookup(name)
	if f == nil || s.special(name) {
		start := shownName(name)
		near := nearest(flags, name, s.special)
		if near == "" && start != "" {
			near = nearest(flags, strings.TrimSuffix(start, "…"), s.special)
		}
		if near != "" {
			return fmt.Errorf("there is no setting %q; is it %s?", start, near)
		}
		return fmt.Errorf("there is no setting %q; tcpbye export --help lists them", start)
	}
	_, list := f.Value.(pflag.SliceValue)
	if first := lines[name]; first != 0 && !list {
		return fmt.Errorf("%s stands in line %d already", name, first)
	}
	if _, given := s.given[name]; given || env[name] {
		return nil
	}
	if err := set(flags, name, value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// set sets a flag; the error is about its value alone.
func set(flags *pflag.FlagSet, name, value string) error {
	err := flags.Set(name, value)
	var number *strconv.NumError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &number):
		return fmt.Errorf("%q: %w", value, number.Err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%q: %w", value, invalid.Unwrap())
	}
	return err
}

// nearest is the setting that a name may be meant for, as cobra finds commands.
func nearest(flags *pflag.FlagSet, name string, special func(string) bool) string {
	all := &cobra.Command{SuggestionsMinimumDistance: 2}
	flags.VisitAll(func(f *pflag.Flag) {
		if !special(f.Name) {
			all.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
		}
	})
	return strings.Join(all.SuggestionsFor(name), " or ")
}
