package serve

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// briefest is how much of an error is told of a command that does not start, in bytes: its name may be an image's, and long.
const briefest = 500

// Command is what process 1 runs beside the agent, as far as this server has heard: process 1 starts it and reaps it.
type Command struct {
	// Signal passes a signal on; nil where nobody could.
	Signal func(number int)

	once        sync.Once
	begun, over chan struct{}
	pid         int
	result      any
	problem     error
}

func newCommand() *Command { return &Command{begun: make(chan struct{}), over: make(chan struct{})} }

// Hear takes a word of process 1's: `running PID`, `exit N`, `signal NAME`, `problem TEXT`, or `none`. Called by one goroutine.
func (c *Command) Hear(words string) {
	word, rest, _ := strings.Cut(words, " ")
	value, _ := strconv.Atoi(rest)
	select {
	case <-c.over:
		return // it has one end
	default:
	}
	switch word {
	case "running":
		c.pid = value
		c.once.Do(func() { close(c.begun) })
		return
	case "exit":
		c.result = map[string]int{"exit": value}
	case "signal":
		c.result = map[string]string{"signal": rest}
	case "problem":
		c.problem = refuse(noCommand, rest)
	default:
		c.problem = refuse(notFound, "nothing was to be run")
	}
	c.once.Do(func() { close(c.begun) })
	close(c.over)
}

// doCommand tells how it is with the command; the request ends with it. Giving the request up leaves the command as it is.
func doCommand(machine *Machine, st *stream, text []byte) (any, error) {
	if err := Parse(text, &plainRequest{}); err != nil {
		return nil, err
	}
	command, given := machine.Command, make(chan struct{})
	st.onReset(func() { close(given) })
	st.onControl(func(asked controlRequest) {
		if signal, known := signalOf(asked.Signal); known && command.Signal != nil {
			command.Signal(int(signal))
		}
	})
	select {
	case <-command.begun:
	case <-given:
		return nil, refuse(failed, "given up")
	}
	if command.pid > 0 {
		st.opened(map[string]int{"pid": command.pid})
	}
	select {
	case <-command.over:
		return command.result, command.problem
	case <-given:
		return nil, refuse(failed, "given up")
	}
}

// Launch starts a command that nobody is connected to, and returns its number: it reads nothing and writes to the console,
// which becomes its user's, since programs open what they write to by name, too. Whoever calls reaps it.
func Launch(argv []string, env map[string]string, cwd, user string) (int, error) {
	if cwd == "" {
		cwd = "/"
	}
	made, err := resolve(&execRequest{Argv: argv, Env: env, Cwd: &cwd, User: &user})
	if err != nil {
		return 0, err
	}
	ends := &endings{}
	ends.theirs[0], err = os.Open(os.DevNull)
	for place := 1; err == nil && place <= 2; place++ {
		ends.theirs[place], err = os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		ends.closeTheirs()
		return 0, err
	}
	_ = ends.theirs[1].Chown(int(made.who.uid), -1)
	running, err := start(made, ends)
	if err != nil {
		return 0, err
	}
	return running.pid, nil
}

// Ended says in a word of process 1's how a process ended.
func Ended(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + signalName(status.Signal())
	}
	return "exit " + strconv.Itoa(status.ExitStatus())
}

// Brief is an error in one line that is not too long for one.
func Brief(err error) string {
	text := strings.ToValidUTF8(strings.Map(func(one rune) rune {
		if one < ' ' {
			return ' '
		}
		return one
	}, err.Error()), "?")
	if len(text) > briefest {
		text = strings.ToValidUTF8(text[:briefest], "") + "…"
	}
	return text
}
