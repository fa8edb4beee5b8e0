package lab

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// moduleTree is what modules.dep says: which modules a kernel has, and what
// each needs.
type moduleTree struct {
	file    map[string]string   // by module name: path below /lib/modules/RELEASE
	needs   map[string][]string // by module name: names
	builtin map[string]bool
}

// parseModules reads modules.dep ("kernel/a.ko: kernel/b.ko …", paths with an
// optional compression suffix) and modules.builtin (one path a line).
func parseModules(dep, builtin string) (moduleTree, error) {
	t := moduleTree{file: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	for line := range strings.Lines(dep) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return moduleTree{}, fmt.Errorf("modules.dep has a line without a colon: %q", line)
		}
		name := moduleName(file)
		t.file[name] = file
		for _, n := range strings.Fields(needs) {
			t.needs[name] = append(t.needs[name], moduleName(n))
		}
	}
	for line := range strings.Lines(builtin) {
		if line = strings.TrimSpace(line); line != "" {
			t.builtin[moduleName(line)] = true
		}
	}
	return t, nil
}

// moduleName turns a path into the name that the kernel uses: without
// directory and suffixes, with "_" for "-".
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order returns the files of the named modules and of all that they need, each
// after what it needs, in a fixed order. What is built into the kernel needs no
// file. Names that the kernel does not know are returned as missing.
func (t moduleTree) order(names []string) (files, missing []string, err error) {
	const open, done = 1, 2
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case done:
			return nil
		case open:
			return fmt.Errorf("modules.dep has a cycle at %s", name)
		}
		state[name] = open
		// depmod writes the list in the reverse of the load order.
		for _, n := range slices.Backward(t.needs[name]) {
			if t.file[n] == "" {
				return fmt.Errorf("modules.dep: %s needs %s, which is not there", name, n)
			}
			if err := visit(n); err != nil {
				return err
			}
		}
		state[name] = done
		files = append(files, t.file[name])
		return nil
	}
	for _, name := range names {
		name = moduleName(name)
		switch {
		case t.builtin[name]:
		case t.file[name] == "":
			missing = append(missing, name)
		default:
			if err := visit(name); err != nil {
				return nil, nil, err
			}
		}
	}
	return files, missing, nil
}
