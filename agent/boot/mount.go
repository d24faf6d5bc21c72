package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/agent/serve"
)

const (
	diskPatience = 10 * time.Second
	newRoot      = "/newroot"
	lowerDir     = "/lower"
	upperDir     = "/upper"
	// zeroed keeps ext4 from zeroing its inode tables in the first minutes: a new disk is a sparse file, and its holes are zeros that take no room.
	zeroed = "noinit_itable"
)

// root says where the image's root is. layer is the writable layer's folder below it, if it is on a disk; held is the way
// to that folder once a new root hides it, for as long as process 1 is this program.
type root struct{ path, layer, held string }

type mount struct {
	source, path, kind, data string
	flags                    uintptr
}

const closed = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC

// bare is what the agent itself needs; full is what a process expects of a machine whose init mounts nothing.
var (
	bare = []mount{
		{"proc", "proc", "proc", "", closed},
		{"sysfs", "sys", "sysfs", "", closed},
		{"devtmpfs", "dev", "devtmpfs", "mode=755", syscall.MS_NOSUID},
	}
	usual = append(append([]mount{}, bare...),
		mount{"devpts", "dev/pts", "devpts", "mode=620,gid=5,ptmxmode=666", syscall.MS_NOSUID | syscall.MS_NOEXEC},
		mount{"tmpfs", "dev/shm", "tmpfs", "mode=1777", syscall.MS_NOSUID | syscall.MS_NODEV},
		mount{"tmpfs", "run", "tmpfs", "mode=755", syscall.MS_NOSUID | syscall.MS_NODEV},
	)
	withoutInit = []mount{{"cgroup2", "sys/fs/cgroup", "cgroup2", "nsdelegate", closed}}
)

// mountAll mounts in a root of our own making, where no link leads astray.
func mountAll(root string, list []mount) error {
	var problems []error
	for _, one := range list {
		path := filepath.Join(root, one.path)
		_ = os.MkdirAll(path, 0o755)
		problems = append(problems, one.on(path, path))
	}
	return errors.Join(problems...)
}

// mountInside mounts in the root of an image, which may lack the folders, or have anything else in their place.
func mountInside(root string, list []mount) error {
	var problems []error
	for _, one := range list {
		way, done, err := folder(root, one.path, 0o755)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		problems = append(problems, one.on(way, filepath.Join(root, one.path)))
		done()
	}
	return errors.Join(problems...)
}

func (m mount) on(way, name string) error {
	if err := syscall.Mount(m.source, way, m.kind, m.flags, m.data); err != nil && err != syscall.EBUSY {
		return &os.PathError{Op: "mount", Path: name, Err: err}
	}
	return nil
}

// furnish gives the root of an image everything but its files.
func furnish(root string) error {
	if err := mountInside(root, usual); err != nil {
		return err
	}
	dev, done, err := folder(root, "dev", 0o755)
	if err != nil {
		return err
	}
	defer done()
	link(dev)
	_, tmp, err := folder(root, "tmp", 0o777|syscall.S_ISVTX)
	if err == nil {
		tmp()
	}
	return err
}

// furnishOwn is the same for the initramfs, where it is the root itself.
func furnishOwn() error {
	if err := mountAll("/", usual[len(bare):]); err != nil {
		return err
	}
	link("/dev")
	return nil
}

// link makes the names that shells and others know open files by.
func link(dev string) {
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		_ = os.Symlink("/proc/self/fd"+target, filepath.Join(dev, name))
	}
}

// mountRoot mounts what process 1 of the image is to find as its root.
func mountRoot(asked options) (root, error) {
	if asked.root != "" {
		return mountWhole(asked.root)
	}
	return mountLayers(asked)
}

// mountWhole mounts one disk that may be written, all of it. What a power cut left undone the kernel finishes from the journal.
func mountWhole(name string) (root, error) {
	made := root{path: newRoot, layer: newRoot}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return made, err
	}
	if err := mountDisk(name, newRoot, 0, "", "ext4"); err != nil {
		return made, err
	}
	made.held = hold(newRoot)
	if err := grow(newRoot, name); err != nil {
		serve.Note("the disk keeps its size: ", err.Error())
	}
	// Not before: with it, growing would zero the new tables at once.
	if err := syscall.Mount("", newRoot, "", syscall.MS_REMOUNT, zeroed); err != nil {
		serve.Note("the disk's tables are zeroed in the background: ", err.Error())
	}
	return made, furnish(newRoot)
}

// hold is a way to a folder that lasts as long as process 1 is this program, whatever is mounted over it later.
func hold(path string) string {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	return "/proc/1/fd/" + strconv.Itoa(fd)
}

// mountLayers lays the writable disk over the read-only one.
func mountLayers(asked options) (root, error) {
	made := root{path: newRoot}
	for _, path := range []string{newRoot, lowerDir, upperDir} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return made, err
		}
	}
	if err := mountDisk(asked.lower, lowerDir, syscall.MS_RDONLY, "", "ext4", "squashfs", "erofs"); err != nil {
		return made, err
	}
	if asked.upper == "" {
		if err := syscall.Mount("tmpfs", upperDir, "tmpfs", 0, "mode=755"); err != nil {
			return made, &os.PathError{Op: "mount", Path: upperDir, Err: err}
		}
	} else {
		if err := mountDisk(asked.upper, upperDir, 0, zeroed, "ext4"); err != nil {
			return made, err
		}
		made.layer, made.held = upperDir, hold(upperDir)
	}
	for _, path := range []string{upperDir + "/upper", upperDir + "/work"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return made, err
		}
	}
	layers := "lowerdir=" + lowerDir + ",upperdir=" + upperDir + "/upper,workdir=" + upperDir + "/work"
	if err := syscall.Mount("overlay", newRoot, "overlay", 0, layers); err != nil {
		return made, &os.PathError{Op: "mount overlay", Path: newRoot, Err: err}
	}
	return made, furnish(newRoot)
}

func mountDisk(name, path string, flags uintptr, data string, kinds ...string) error {
	device, err := findDisk(name)
	if err != nil {
		return err
	}
	var tried []string
	for _, kind := range kinds {
		err := syscall.Mount(device, path, kind, flags, data)
		if err == nil {
			return nil
		}
		tried = append(tried, kind+": "+err.Error())
	}
	return errors.New("disk " + name + " (" + device + ") does not mount: " + strings.Join(tried, ", "))
}

// findDisk waits for a disk of that name, or with that serial: virtio-mmio shows disks in no order to rely on.
func findDisk(name string) (string, error) {
	for end := time.Now().Add(diskPatience); ; time.Sleep(2 * time.Millisecond) {
		if found := diskNow(name); found != "" {
			if _, err := os.Stat("/dev/" + found); err == nil {
				return "/dev/" + found, nil
			}
		}
		if time.Now().After(end) {
			return "", errors.New("disk " + name + " is missing: no block device has this name or serial; there are: " + strings.Join(disks(), " "))
		}
	}
}

func diskNow(name string) string {
	if _, err := os.Stat("/sys/block/" + name); err == nil && !strings.Contains(name, "/") {
		return name
	}
	for _, disk := range disks() {
		serial, err := os.ReadFile("/sys/block/" + disk + "/serial")
		if err == nil && strings.TrimSpace(string(serial)) == name {
			return disk
		}
	}
	return ""
}

func disks() (names []string) {
	entries, _ := os.ReadDir("/sys/block")
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// switchRoot makes the new root the root of the machine, and gives the memory of the initramfs back.
func switchRoot(to root) error {
	if to.path == "/" {
		return nil
	}
	for _, path := range append(listed("/modules"), "/modules", "/init") {
		_ = os.Remove(path)
	}
	for _, path := range []string{"/dev", "/sys", "/proc"} {
		_ = syscall.Unmount(path, syscall.MNT_DETACH)
	}
	if err := syscall.Chdir(to.path); err != nil {
		return &os.PathError{Op: "chdir", Path: to.path, Err: err}
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return &os.PathError{Op: "move", Path: to.path, Err: err}
	}
	if err := syscall.Chroot("."); err != nil {
		return &os.PathError{Op: "chroot", Path: to.path, Err: err}
	}
	return syscall.Chdir("/")
}
