package serve

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// endings are our ends of a command's streams, and its own until it has started.
type endings struct {
	input, output, errors *os.File
	theirs                [3]*os.File
	terminal              bool
	closing               sync.Mutex
}

// prepare makes pipes, or a terminal that belongs to the user.
func prepare(request *execRequest, who account) (*endings, error) {
	ends := &endings{terminal: request.TTY != nil}
	var err error
	if ends.terminal {
		err = ends.makeTerminal(request.TTY.window, who)
	} else {
		err = ends.makePipes(request.Stdin)
	}
	if err != nil {
		ends.closeTheirs()
		ends.closeOurs()
		return nil, err
	}
	return ends, nil
}

func (e *endings) makePipes(stdin bool) (err error) {
	if stdin {
		e.theirs[0], e.input, err = os.Pipe()
	} else {
		e.theirs[0], err = os.Open(os.DevNull)
	}
	if err == nil {
		e.output, e.theirs[1], err = os.Pipe()
	}
	if err == nil {
		e.errors, e.theirs[2], err = os.Pipe()
	}
	if err == nil {
		widen(e.output)
	}
	return err
}

// widen gives a pipe more room, so that a quick writer and its reader take fewer turns. It may be refused: no matter.
func widen(file *os.File) {
	const setPipeSize = 1031
	raw, err := file.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, 4*chunk*2) })
	}
}

func (e *endings) makeTerminal(size window, who account) error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	e.input, e.output = master, master
	var index, unlock int32
	if err := terminalCall(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)); err != nil {
		return err
	}
	if err := terminalCall(master, syscall.TIOCGPTN, unsafe.Pointer(&index)); err != nil {
		return err
	}
	e.resize(size)
	slave, err := os.OpenFile("/dev/pts/"+number(int(index)), os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = slave.Chown(int(who.uid), -1)
	e.theirs = [3]*os.File{slave, slave, slave}
	return nil
}

func terminalCall(file *os.File, call uintptr, argument unsafe.Pointer) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, call, uintptr(argument))
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("ioctl", errno)
	}
	return err
}

func (e *endings) resize(size window) {
	if size.Rows > 0 && size.Cols > 0 {
		cells := [4]uint16{size.Rows, size.Cols}
		_ = terminalCall(e.output, syscall.TIOCSWINSZ, unsafe.Pointer(&cells))
	}
}

func (e *endings) closeTheirs() {
	for _, file := range e.theirs {
		if file != nil {
			_ = file.Close()
		}
	}
}

func (e *endings) closeOurs() {
	for _, file := range []*os.File{e.input, e.output, e.errors} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// closeInput ends the command's stdin. A terminal is input and output in one and stays.
func (e *endings) closeInput() {
	if e.input != nil && !e.terminal {
		_ = e.input.Close()
	}
}

// finish lets go of the streams. What the command left behind may go on writing to its pipes: it is read into nothing,
// so that a server started in the background does not die of a closed pipe. A terminal hangs up, as terminals do.
func (e *endings) finish(tty bool) {
	if tty {
		e.closeOurs()
		return
	}
	e.closeInput()
	for _, file := range []*os.File{e.output, e.errors} {
		go func() {
			_ = file.SetReadDeadline(time.Time{})
			_, _ = io.Copy(io.Discard, file)
			_ = file.Close()
		}()
	}
}

// process is a started command, the leader of a session of its own.
type process struct {
	pid    int
	over   atomic.Bool
	mu     sync.Mutex // held while signalling, so that the number is still the command's
	reaped bool
}

func start(made *command, ends *endings) (*process, error) {
	defer ends.closeTheirs()
	files := make([]uintptr, 3)
	for i, file := range ends.theirs {
		files[i] = file.Fd()
		_ = syscall.SetNonblock(int(files[i]), false) // commands do not expect it
	}
	attributes := &syscall.ProcAttr{Dir: made.cwd, Env: made.env, Files: files, Sys: &syscall.SysProcAttr{
		Setsid: true, Setctty: ends.terminal, Ctty: 0,
	}}
	if os.Getuid() == 0 {
		attributes.Sys.Credential = &syscall.Credential{Uid: made.who.uid, Gid: made.who.gid, Groups: made.who.groups}
	}
	pid, err := syscall.ForkExec(made.path, made.argv, attributes)
	if err != nil {
		return nil, startError(made, err)
	}
	// the agent is spared when memory runs out, what it starts is not
	_ = os.WriteFile("/proc/"+number(pid)+"/oom_score_adj", []byte("0"), 0)
	return &process{pid: pid}, nil
}

// wait returns the command's status once it has ended, and wakes the readers that its heirs could keep waiting.
func (p *process) wait(ends *endings) syscall.WaitStatus {
	awaitExit(p.pid)
	p.mu.Lock()
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.pid, &status, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	p.reaped = true
	p.mu.Unlock()
	p.over.Store(true)
	for _, file := range []*os.File{ends.output, ends.errors} {
		if file != nil {
			_ = file.SetReadDeadline(time.Now().Add(silence))
		}
	}
	return status
}

// awaitExit waits without reaping: until then nobody else gets the number.
func awaitExit(pid int) {
	const justPID, exited, leave = 1, 4, 0x01000000
	var info [128]byte
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, justPID, uintptr(pid), uintptr(unsafe.Pointer(&info)), exited|leave, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

func (p *process) control(asked controlRequest, ends *endings) {
	if asked.Resize != nil && ends.terminal {
		ends.resize(*asked.Resize)
	}
	if asked.Signal == "" {
		return
	}
	signal, known := signalOf(asked.Signal)
	if !known {
		Note("unknown signal ignored: ", asked.Signal)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.pid, signal)
	}
}
