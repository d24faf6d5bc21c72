package identity

import (
	"encoding/binary"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	addEntropy = 0x40085203 // RNDADDENTROPY
	reseed     = 0x5207     // RNDRESEEDCRNG, Linux 4.14 and later
	clockSkew  = 100 * time.Millisecond
)

func sethostname(name string) error { return syscall.Sethostname([]byte(name)) }

// stir credits the kernel with the daemon's randomness and makes it use it now: after a restore its generator is in the
// same state as its siblings'.
func stir(seed []byte) error {
	pool, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	packet := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8))
	packet = binary.NativeEndian.AppendUint32(packet, uint32(len(seed)))
	packet = append(packet, seed...)
	if err := call(pool.Fd(), addEntropy, unsafe.Pointer(&packet[0])); err != nil {
		return err
	}
	if err := call(pool.Fd(), reseed, nil); err != nil && err != syscall.ENOTTY && err != syscall.EINVAL {
		return err
	}
	return nil
}

func setClock(wanted int64) error {
	if skew := time.Until(time.Unix(0, wanted)); skew > -clockSkew && skew < clockSkew {
		return nil
	}
	at := syscall.NsecToTimespec(wanted)
	const realtime = 0
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, realtime, uintptr(unsafe.Pointer(&at)), 0); errno != 0 {
		return errno
	}
	return nil
}

func call(fd, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
