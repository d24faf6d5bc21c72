package boot

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// listed are the lines of a file.
func listed(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.Fields(string(text))
}

// loadModules loads what the list names, in its order. One that fails does not keep the others out: the error says which
// failed, and what follows from it shows later.
func loadModules(list string) error {
	var problems []error
	for _, path := range listed(list) {
		if err := loadModule(path); err != nil {
			problems = append(problems, &os.PathError{Op: "load module", Path: path, Err: err})
		}
	}
	return errors.Join(problems...)
}

func loadModule(path string) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	none := [1]byte{}
	_, _, errno := syscall.Syscall(finitModule, uintptr(fd), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}
