package boot

import (
	"os"
	"path/filepath"
	"slices"

	"banger/agent/serve"
)

// places are where the program is that a kernel would start as process 1, below a root.
var places = []string{"sbin/init", "usr/sbin/init", "usr/bin/init"}

// signs give each kind of init away, beside the program itself; src/banger/model/inits.py has the same rule, and both pass
// tests/vectors/inits.json.
var signs = []struct {
	name  string
	files []string
}{
	{"systemd", []string{"usr/lib/systemd/systemd", "lib/systemd/systemd"}},
	{"openrc", []string{"sbin/openrc", "usr/sbin/openrc", "usr/bin/openrc"}},
	{"runit", []string{"etc/runit/1"}},
	{"sysvinit", []string{"etc/init.d/rc", "etc/rc.d/rc", "etc/rc.d/rc.sysinit"}},
	{"busybox", []string{"etc/init.d/rcS"}},
}

// initOf names the init that a root has, by the files and links in it: empty if there is none that would bring the system
// up. Busybox's comes with container images that have nothing for it to start, and counts where it has scripts.
func initOf(has func(path string) bool) string {
	if !slices.ContainsFunc(places, has) {
		return ""
	}
	for _, kind := range signs {
		if slices.ContainsFunc(kind.files, has) {
			return kind.name
		}
	}
	if has("bin/busybox") || has("usr/bin/busybox") {
		return ""
	}
	return "other"
}

// findInit is the program that the image in this root means to be process 1.
func findInit() string {
	has := func(path string) bool {
		_, err := os.Lstat(filepath.Join("/", path))
		return err == nil
	}
	if initOf(has) == "" {
		return ""
	}
	for _, path := range places {
		found, err := os.Stat(filepath.Join("/", path))
		if err == nil && found.Mode().IsRegular() && found.Mode()&0o111 != 0 {
			return filepath.Join("/", path)
		}
	}
	return ""
}

// first is what process 1 is to become; without a word it stays the agent, and then runs the command, if there is one.
type first struct {
	Argv    []string          `json:"argv"`
	Env     map[string]string `json:"env"`
	Cwd     string            `json:"cwd"`
	Command []string          `json:"command"`
	User    string            `json:"user"`
}

// decide takes what the daemon says, and what is found where it leaves that to us: argv is null then.
func (f first) decide() first {
	if f.Argv == nil {
		if program := findInit(); program != "" {
			f.Argv = []string{program}
		}
	}
	return f
}

// environment is the image's, over what a kernel gives an init.
func (f first) environment() []string {
	set := map[string]string{"PATH": serve.DefaultPath, "HOME": "/", "TERM": "linux"}
	for name, text := range f.Env {
		set[name] = text
	}
	list := make([]string, 0, len(set))
	for name, text := range set {
		list = append(list, name+"="+text)
	}
	slices.Sort(list)
	return list
}

// program is the file to execute: a bare name is looked for where programs of the system are.
func (f first) program() (string, error) { return serve.Lookup(f.Argv[0], serve.DefaultPath, "/") }
