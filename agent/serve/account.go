package serve

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// longestFile is how much is read of a file of an image's, in bytes: it may be a link to something without an end.
const longestFile = 4 << 20

// account is whom a command runs as. It is read from the image's files: a static binary has no name service, and an image
// may have none either.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// findAccount takes a name or a uid, either with `:group` or `:gid`; empty is root. As container images expect it, a uid that
// is nobody's is in group 0, and whoever names a group is in that one only.
func findAccount(asked string) (account, error) {
	if asked == "" {
		asked = "0"
	}
	user, group, pair := strings.Cut(asked, ":")
	found, err := findUser(user)
	if err != nil {
		return found, err
	}
	if !pair || group == "" {
		found.groups = groupsOf(found.name)
		return found, nil
	}
	found.gid, err = findGroup(group)
	return found, err
}

func findUser(asked string) (account, error) {
	for _, field := range records("/etc/passwd", 7) {
		if field[0] == asked || field[2] == asked {
			uid, okUser := id(field[2])
			gid, okGroup := id(field[3])
			if okUser && okGroup {
				shell := field[6]
				if shell == "" {
					shell = "/bin/sh" // passwd(5)
				}
				return account{name: field[0], home: field[5], shell: shell, uid: uid, gid: gid}, nil
			}
		}
	}
	uid, ok := id(asked)
	if !ok {
		return account{}, refuse(notFound, "user "+strconv.Quote(asked)+" is not in /etc/passwd")
	}
	if uid == 0 {
		return account{name: "root", home: "/root", shell: "/bin/sh"}, nil
	}
	return account{name: asked, home: "/", shell: "/bin/sh", uid: uid}, nil
}

func findGroup(asked string) (uint32, error) {
	for _, field := range records("/etc/group", 4) {
		if field[0] == asked {
			if gid, ok := id(field[2]); ok {
				return gid, nil
			}
		}
	}
	if gid, ok := id(asked); ok {
		return gid, nil
	}
	return 0, refuse(notFound, "group "+strconv.Quote(asked)+" is not in /etc/group")
}

func groupsOf(name string) (groups []uint32) {
	for _, field := range records("/etc/group", 4) {
		for _, member := range strings.Split(field[3], ",") {
			if gid, ok := id(field[2]); ok && member == name {
				groups = append(groups, gid)
			}
		}
	}
	return groups
}

// records are the sound lines of a colon-separated file.
func records(path string, width int) (found [][]string) {
	for line := range strings.SplitSeq(string(readImage(path)), "\n") {
		if field := strings.Split(line, ":"); len(field) == width {
			found = append(found, field)
		}
	}
	return found
}

// readImage reads a file that anybody may have put there: nothing of one that is no file, or is too long.
func readImage(path string) []byte {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	found, err := file.Stat()
	if err == nil && !found.Mode().IsRegular() {
		err = errors.New("no file")
	}
	if err != nil {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(file, longestFile))
	return text
}

// id refuses 2³²−1, which system calls take for "leave it".
func id(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}
