package serve

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banger/agent/wire"
)

const (
	// DefaultPath is where commands are looked for unless an image or a request says otherwise.
	DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// silence is how long output may pause after the command has ended, when something that it left behind holds the pipe.
	silence = 250 * time.Millisecond
)

type execRequest struct {
	Op    string            `json:"op"`
	Argv  []string          `json:"argv"`
	Env   map[string]string `json:"env"`
	Cwd   *string           `json:"cwd"`
	User  *string           `json:"user"`
	TTY   *terminalRequest  `json:"tty"`
	Stdin bool              `json:"stdin"`
}

type terminalRequest struct {
	window
	Term string `json:"term"`
}

// command is a resolved request: everything execve needs.
type command struct {
	path string
	argv []string
	env  []string
	cwd  string
	who  account
}

func doExec(machine *Machine, st *stream, text []byte) (any, error) {
	var request execRequest
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	resolved, err := resolve(&request)
	if err != nil {
		return nil, err
	}
	ends, err := prepare(&request, resolved.who)
	if err != nil {
		return nil, refuse(failed, err.Error())
	}
	running, err := start(resolved, ends)
	if err != nil {
		ends.closeOurs()
		return nil, err
	}
	st.onControl(func(control controlRequest) { running.control(control, ends) })
	st.onReset(func() {
		ends.closeInput()
		go running.endSession()
	})
	return follow(st, running, ends, request.TTY != nil), nil
}

// follow carries the streams until the command has ended and its output is delivered.
func follow(st *stream, running *process, ends *endings, tty bool) any {
	st.opened(map[string]int{"pid": running.pid})
	go func() {
		if ends.input == nil {
			st.receive(nil)
			return
		}
		st.receive(ends.input)
		if tty {
			_, _ = ends.input.Write([]byte{4}) // what a person types to end the input
		} else {
			ends.closeInput()
		}
	}()
	var pumps sync.WaitGroup
	for kind, source := range map[byte]*os.File{wire.Data: ends.output, wire.Stderr: ends.errors} {
		if source != nil {
			pumps.Add(1)
			go func() {
				defer pumps.Done()
				st.pump(kind, &output{file: source, over: &running.over})
			}()
		}
	}
	status := running.wait(ends)
	pumps.Wait()
	st.eof()
	ends.finish(tty)
	return result(status)
}

func result(status syscall.WaitStatus) any {
	if status.Signaled() {
		return map[string]string{"signal": signalName(status.Signal())}
	}
	return map[string]int{"exit": status.ExitStatus()}
}

func resolve(request *execRequest) (*command, error) {
	if len(request.Argv) > 0 && request.Argv[0] == "" {
		return nil, refuse(badRequest, "the command's name is empty")
	}
	asked := ""
	if request.User != nil {
		asked = *request.User
	}
	who, err := findAccount(asked)
	if err != nil {
		return nil, err
	}
	made := &command{argv: request.Argv, env: environment(request, who), who: who}
	if made.cwd, err = folder(request.Cwd, who.home); err != nil {
		return nil, err
	}
	if len(request.Argv) > 0 {
		made.path, err = lookup(request.Argv[0], value(made.env, "PATH"), made.cwd)
		return made, err
	}
	made.path, err = findShell(who.shell)
	made.argv = []string{"-" + filepath.Base(made.path)} // how a shell is told that it is a login's
	return made, err
}

// environment is a login's own variables, then the image's, then what was asked for.
func environment(request *execRequest, who account) []string {
	set := map[string]string{"PATH": DefaultPath, "HOME": who.home, "USER": who.name, "LOGNAME": who.name, "SHELL": who.shell}
	for _, pair := range imageEnvironment() {
		set[pair[0]] = pair[1]
	}
	if request.TTY != nil {
		set["TERM"] = "xterm-256color"
		if request.TTY.Term != "" {
			set["TERM"] = request.TTY.Term
		}
	}
	for name, text := range request.Env {
		set[name] = text
	}
	list := make([]string, 0, len(set))
	for name, text := range set {
		list = append(list, name+"="+text)
	}
	slices.Sort(list)
	return list
}

// imageEnvironment is /etc/environment, the one place that logins of all kinds read.
func imageEnvironment() (pairs [][2]string) {
	for line := range strings.SplitSeq(string(readImage("/etc/environment")), "\n") {
		name, text, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		if ok && name != "" && name[0] != '#' && !strings.ContainsAny(name, " \t") {
			pairs = append(pairs, [2]string{name, strings.Trim(text, `"'`)})
		}
	}
	return pairs
}

func value(env []string, name string) string {
	for _, pair := range env {
		if text, ok := strings.CutPrefix(pair, name+"="); ok {
			return text
		}
	}
	return ""
}

func folder(asked *string, home string) (string, error) {
	if asked == nil || *asked == "" {
		if found, err := os.Stat(home); err == nil && found.IsDir() && filepath.IsAbs(home) {
			return home, nil
		}
		return "/", nil
	}
	path := *asked
	if !filepath.IsAbs(path) {
		path = filepath.Join(home, path)
	}
	if found, err := os.Stat(path); err != nil || !found.IsDir() {
		return "", refuse(notFound, "folder "+strconv.Quote(*asked)+" does not exist")
	}
	return path, nil
}

// Lookup finds a program as lookup does.
func Lookup(name, path, cwd string) (string, error) { return lookup(name, path, cwd) }

// lookup finds the command as a shell does: a name with a slash is a path, any other is looked for on PATH.
func lookup(name, path, cwd string) (string, error) {
	places := []string{""}
	if !strings.Contains(name, "/") {
		places = filepath.SplitList(path)
	}
	var closed string
	for _, place := range places {
		full := filepath.Join(place, name)
		if !filepath.IsAbs(full) {
			full = filepath.Join(cwd, full)
		}
		found, err := os.Stat(full)
		if err != nil || found.IsDir() && place != "" {
			continue
		}
		if found.Mode().IsRegular() && found.Mode()&0o111 != 0 {
			return full, nil
		}
		closed = full
	}
	if closed != "" {
		return "", refuse(notPermitted, "command "+strconv.Quote(closed)+" is not executable")
	}
	text := "command " + strconv.Quote(name) + " is not found"
	if slices.Contains(shells, filepath.Base(name)) {
		if _, err := findShell(""); err != nil {
			text += ": " + err.Error()
		}
	}
	return "", refuse(noCommand, text)
}

var (
	shells = []string{"sh", "bash", "ash", "dash"}
	// shellPlaces are where images have one; the last is that of images for debugging that have hardly anything else.
	shellPlaces = []string{"/bin/sh", "/bin/bash", "/bin/ash", "/usr/bin/sh", "/usr/bin/bash", "/busybox/sh"}
	// closedDoors are the shells of accounts that nobody is to log in to. Whoever is here may do anything anyway.
	closedDoors = []string{"nologin", "false"}
)

// findShell is the account's own shell, or what the image has instead.
func findShell(own string) (string, error) {
	if own != "" && !slices.Contains(closedDoors, filepath.Base(own)) {
		if path, err := lookup(own, DefaultPath, "/"); err == nil {
			return path, nil
		}
	}
	for _, place := range shellPlaces {
		if found, err := os.Stat(place); err == nil && found.Mode().IsRegular() && found.Mode()&0o111 != 0 {
			return place, nil
		}
	}
	return "", refuse(noCommand, "the image has no shell")
}

// startError says in the page's words why execve refused.
func startError(made *command, err error) error {
	text := "command " + strconv.Quote(made.path) + " does not start in " + strconv.Quote(made.cwd) + " as " + made.who.name + ": " + err.Error()
	switch {
	case errors.Is(err, syscall.ENOENT):
		return refuse(noCommand, text+" (its interpreter or loader is missing)")
	case errors.Is(err, syscall.ENOEXEC):
		return refuse(notPermitted, text+" (it is for another kind of processor, or a script whose first line does not name its interpreter)")
	case errors.Is(err, syscall.E2BIG):
		return refuse(badRequest, text+" (an argument or variable of 128 KiB and more, or all of them together more than a quarter of the stack's limit)")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return refuse(notPermitted, text)
	case errors.Is(err, syscall.EINVAL):
		return refuse(badRequest, text)
	}
	return refuse(failed, text)
}

// output reads what a command writes. What was written before the command ended is in the pipe by then; after that only
// heirs of the command write, and they get neither for ever nor endless room.
type output struct {
	file   *os.File
	over   *atomic.Bool
	waited time.Duration
	late   int
}

func (o *output) Read(into []byte) (int, error) {
	if !o.over.Load() {
		return o.file.Read(into)
	}
	if o.waited > 4*silence || o.late > 1<<20 {
		return 0, io.EOF
	}
	began := time.Now()
	_ = o.file.SetReadDeadline(began.Add(silence))
	n, err := o.file.Read(into)
	o.waited += time.Since(began)
	o.late += n
	return n, err
}
