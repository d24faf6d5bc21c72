package port

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Linux's numbers, see vsock(7).
const (
	familyVsock = 40
	anyContext  = ^uint32(0)
	hostContext = 2
	backlog     = 4
)

// address is a sockaddr_vm.
type address struct {
	family, _  uint16
	port, host uint32
	_          [4]byte
}

// vsock listens on AF_VSOCK. The newest connection is the one that counts: whoever connects hangs up on the one before,
// since a host that died or was restored never says so. Only the host may: the machine's own users can reach a port too
// where the kernel has the loopback transport.
type vsock struct {
	listener *os.File
	arrived  chan Conn
	failed   chan error
}

// Vsock listens on a port of the machine's virtual sockets, waiting for their driver to be loaded.
func Vsock(number uint32) (Port, error) {
	wait := 2 * time.Millisecond
	for slow := time.Now().Add(10 * time.Second); ; time.Sleep(wait) {
		fd, err := listenVsock(number)
		if err == nil {
			made := &vsock{os.NewFile(uintptr(fd), "vsock"), make(chan Conn, 1), make(chan error, 1)}
			go made.accept()
			return made, nil
		}
		if !errors.Is(err, syscall.EAFNOSUPPORT) && !errors.Is(err, syscall.ENODEV) {
			return nil, err
		}
		if time.Now().After(slow) {
			wait = 200 * time.Millisecond // it may be plugged in some day
		}
	}
}

func listenVsock(number uint32) (int, error) {
	fd, err := syscall.Socket(familyVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	here := address{family: familyVsock, port: number, host: anyContext}
	_, _, errno := syscall.Syscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&here)), unsafe.Sizeof(here))
	if errno != 0 {
		_ = syscall.Close(fd)
		return -1, os.NewSyscallError("bind", errno)
	}
	if err := syscall.Listen(fd, backlog); err != nil {
		_ = syscall.Close(fd)
		return -1, os.NewSyscallError("listen", err)
	}
	return fd, nil
}

// accept hands over each connection as it comes; one that nobody has taken yet makes room for its successor.
func (v *vsock) accept() {
	var former *channel
	for {
		conn, err := v.next()
		if err != nil {
			v.failed <- err
			return
		}
		if former != nil {
			former.hangUp()
		}
		former = conn
		select {
		case old := <-v.arrived:
			_ = old.Close()
		default:
		}
		v.arrived <- conn
	}
}

// next waits for a connection of the host's.
func (v *vsock) next() (*channel, error) {
	raw, err := v.listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failure syscall.Errno
	err = raw.Read(func(listener uintptr) bool {
		for {
			var peer address
			fd, peer, failure = acceptOne(listener)
			switch {
			case failure == 0 && peer.host != hostContext:
				_ = syscall.Close(fd)
			case failure != syscall.EINTR && failure != syscall.ECONNABORTED && failure != syscall.ECONNRESET:
				return failure != syscall.EAGAIN
			}
		}
	})
	if err == nil && failure != 0 {
		err = os.NewSyscallError("accept4", failure)
	}
	if err != nil {
		return nil, err
	}
	return &channel{File: os.NewFile(uintptr(fd), "host")}, nil
}

func acceptOne(listener uintptr) (int, address, syscall.Errno) {
	var peer address
	size := uint32(unsafe.Sizeof(peer))
	const flags = syscall.SOCK_CLOEXEC | syscall.SOCK_NONBLOCK
	fd, _, errno := syscall.Syscall6(syscall.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size)), flags, 0, 0)
	return int(fd), peer, errno
}

func (v *vsock) Next() (Conn, error) {
	select {
	case conn := <-v.arrived:
		return conn, nil
	case err := <-v.failed:
		return nil, err
	}
}

// channel is one connection. Closing it twice, or hanging up on a closed one, does nothing.
type channel struct {
	*os.File
	once sync.Once
}

// Read takes a reset for the end: a host that was killed sends one.
func (c *channel) Read(into []byte) (int, error) {
	n, err := c.File.Read(into)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed) {
		return n, io.EOF
	}
	return n, err
}

func (c *channel) Interrupt() { _ = c.SetWriteDeadline(time.Unix(1, 0)) }
func (c *channel) Resume()    { _ = c.SetWriteDeadline(time.Time{}) }

func (c *channel) Close() (err error) {
	c.once.Do(func() { err = c.File.Close() })
	return err
}

// hangUp ends both directions; whoever reads or writes notices and closes.
func (c *channel) hangUp() {
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
	}
}
