package boot

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	openat2      = 437 // not in package syscall; Linux 5.6
	pathOnly     = 0x200000
	inThisRoot   = 0x10 // RESOLVE_IN_ROOT, linux/openat2.h
	noMagicLinks = 0x02
	noLinks      = 0x04
)

// mayLead are the folders that a link may stand for: images have /run and /var/run as one. What a kernel is seen through is
// mounted on a folder of its own, since another may be below the link.
var mayLead = []string{"run", "tmp"}

// at opens a folder below root, where links that may lead are taken as if root were "/": those of an image lead nowhere else.
func at(root, path string) (int, error) {
	base, err := syscall.Open(root, pathOnly|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil || path == "." {
		return base, err
	}
	defer syscall.Close(base)
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	resolve := uint64(inThisRoot | noMagicLinks)
	if !slices.Contains(mayLead, path) {
		resolve |= noLinks
	}
	how := struct{ flags, mode, resolve uint64 }{pathOnly | syscall.O_DIRECTORY | syscall.O_CLOEXEC, 0, resolve}
	fd, _, errno := syscall.Syscall6(openat2, uintptr(base), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// folder is a way to a folder below root, valid until it is closed. It is made if the image has none; what stands in its
// place (a file, or a link that leads to nothing) gives way: a machine needs it, and the layer for writing is its own.
func folder(root, path string, mode uint32) (way string, done func(), err error) {
	fd, err := at(root, path)
	if err != nil {
		if fd, err = fresh(root, path, mode); err != nil {
			return "", nil, &os.PathError{Op: "make folder", Path: filepath.Join(root, path), Err: err}
		}
	}
	return descriptor(fd), func() { _ = syscall.Close(fd) }, nil
}

func descriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func fresh(root, path string, mode uint32) (int, error) {
	parent, err := at(root, filepath.Dir(path))
	if err != nil {
		return -1, err
	}
	defer syscall.Close(parent)
	name := descriptor(parent) + "/" + filepath.Base(path)
	if _, err := os.Lstat(name); err == nil {
		if err := os.Remove(name); err != nil {
			return -1, err
		}
	}
	if err := syscall.Mkdir(name, mode); err != nil {
		return -1, err
	}
	if err := syscall.Chmod(name, mode); err != nil { // whatever the umask is
		return -1, err
	}
	return at(root, path)
}
