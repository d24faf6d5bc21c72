package port

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// virtio is a port of virtio_console. While nobody is at its far end a read gives nothing at once and poll reports a
// hang-up, so that level-triggered waiting would spin. An edge-triggered epoll sleeps: the driver wakes its waiters when
// a host connects, disconnects or sends.
type virtio struct {
	fd, epoll   int
	interrupted atomic.Bool
}

// how long an edge that never comes may delay us; the driver is trusted, but not with everything
const edgeDoubt = time.Second

// Virtio opens the virtio-serial port of that name, waiting for its driver to be loaded and its handshake to be done.
func Virtio(name string) (Port, error) {
	wait := 2 * time.Millisecond
	for slow := time.Now().Add(10 * time.Second); ; time.Sleep(wait) {
		if node := find(name); node != "" {
			fd, err := syscall.Open("/dev/"+node, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
			if err == nil {
				return watch(fd)
			}
			if !errors.Is(err, syscall.ENXIO) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EBUSY) {
				return nil, &os.PathError{Op: "open", Path: "/dev/" + node, Err: err}
			}
		}
		if time.Now().After(slow) {
			wait = 200 * time.Millisecond // it may be plugged in some day
		}
	}
}

func find(name string) string {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range names {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}

func watch(fd int) (Port, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	const edge = 1 << 31 // EPOLLET, which package syscall has as a negative number
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | edge, Fd: int32(fd)}
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return &virtio{fd: fd, epoll: epoll}, nil
}

// Next waits until the host's side is open.
func (v *virtio) Next() (Conn, error) {
	for {
		there, err := v.ready(pollIn|pollOut, 0)
		if err != nil || there {
			return v, err
		}
		if err := v.sleep(edgeDoubt); err != nil {
			return nil, err
		}
	}
}

func (v *virtio) sleep(limit time.Duration) error {
	var events [1]syscall.EpollEvent
	_, err := syscall.EpollWait(v.epoll, events[:], int(limit/time.Millisecond))
	if err != nil && err != syscall.EINTR {
		return os.NewSyscallError("epoll_wait", err)
	}
	return nil
}

func (v *virtio) Read(into []byte) (int, error) {
	for {
		switch n, err := syscall.Read(v.fd, into); {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == syscall.EAGAIN:
			if err := v.sleep(-time.Millisecond); err != nil {
				return 0, err
			}
		case err != syscall.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// Write stalls while the host takes nothing, and fails when it has gone.
func (v *virtio) Write(data []byte) (int, error) {
	done := 0
	for done < len(data) {
		if v.interrupted.Load() {
			return done, os.ErrDeadlineExceeded
		}
		n, err := syscall.Write(v.fd, data[done:])
		switch {
		case err == syscall.EAGAIN:
			if _, err := v.ready(pollOut, 100*time.Millisecond); err != nil {
				return done, err
			}
			if gone, _ := v.hungUp(); gone {
				return done, io.ErrClosedPipe
			}
		case err != nil && err != syscall.EINTR:
			return done, os.NewSyscallError("write", err)
		case n > 0:
			done += n
		}
	}
	return done, nil
}

func (v *virtio) Interrupt()   { v.interrupted.Store(true) }
func (v *virtio) Resume()      { v.interrupted.Store(false) }
func (v *virtio) Close() error { return nil } // the far end changes, the port stays

const (
	pollIn  = 0x1
	pollOut = 0x4
	pollHup = 0x10
)

type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

// ready says whether the host's side is open and, after at most limit, one of the events holds.
func (v *virtio) ready(events int16, limit time.Duration) (bool, error) {
	got, err := v.poll(events, limit)
	return got&pollHup == 0 && got&events != 0, err
}

func (v *virtio) hungUp() (bool, error) {
	got, err := v.poll(0, 0)
	return got&pollHup != 0, err
}

func (v *virtio) poll(events int16, limit time.Duration) (int16, error) {
	one := pollFD{fd: int32(v.fd), events: events}
	span := syscall.NsecToTimespec(int64(limit))
	_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&one)), 1, uintptr(unsafe.Pointer(&span)), 0, 0, 0)
	if errno != 0 && errno != syscall.EINTR {
		return 0, os.NewSyscallError("ppoll", errno)
	}
	return one.revents, nil
}
