package serve

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/agent/wire"
)

const (
	// HostKeyFile is the one host key that an ssh server of ours shows.
	HostKeyFile  = "/etc/ssh/ssh_host_ed25519_key"
	welcomedKeys = "/run/banger/authorized_keys"
	testLimit    = 15 * time.Second
	// longestComplaint is in bytes.
	longestComplaint = 1024
)

type sshRequest struct {
	Op             string   `json:"op"`
	User           string   `json:"user"`
	AuthorizedKeys []string `json:"authorized_keys"`
}

type sshKeysRequest struct {
	Op        string `json:"op"`
	MachineID string `json:"machine_id"`
}

// sshCommand is an ssh server for one connection, on its stdin and stdout. It reads no configuration of the image's: whether
// the image means its sshd for the network, and for whom, does not matter here. Keys only, and only those that the host
// has just given; for any user.
//
// With PAM for users, who count as locked without it when they have no password. Root, whom nothing keeps out, is spared it:
// while the machine boots, its modules wait for services and talk of logins that are not permitted yet.
func sshCommand(program, user string) []string {
	command := []string{program, "-i", "-f", "/dev/null"}
	pam := []string{"UsePAM=yes"}
	if user == "root" && !locked("/etc/shadow", user) {
		pam = append([]string{"UsePAM=no"}, setEnvironment(imageEnvironment())...)
	}
	for _, option := range append(pam,
		"HostKey="+HostKeyFile, "AuthorizedKeysFile="+welcomedKeys, "AuthenticationMethods=publickey", "PasswordAuthentication=no",
		"PermitRootLogin=prohibit-password", "Subsystem=sftp internal-sftp", "AcceptEnv=LANG LC_* COLORTERM", "PrintMotd=no", "UseDNS=no",
	) {
		command = append(command, "-o", option)
	}
	return command
}

// locked tells whether sshd without PAM takes the account for locked.
func locked(shadow, user string) bool {
	text, _ := os.ReadFile(shadow)
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, user+":"); ok {
			return strings.HasPrefix(rest, "!")
		}
	}
	return false
}

// setEnvironment is what PAM would have read; a value that does not fit between quotes is left out.
func setEnvironment(pairs [][2]string) []string {
	var words []string
	for _, pair := range pairs {
		if word := pair[0] + "=" + pair[1]; !strings.ContainsAny(word, "\"\\\r") {
			words = append(words, `"`+word+`"`)
		}
	}
	if words == nil {
		return nil
	}
	return []string{"SetEnv " + strings.Join(words, " ")}
}

func findSSH() (string, error) {
	program, err := lookup("sshd", DefaultPath, "/")
	if err != nil {
		return "", refuse(noCommand, "the image has no ssh server: sshd is not found")
	}
	return program, nil
}

func doSSHKeys(machine *Machine, st *stream, text []byte) (any, error) {
	var request sshKeysRequest
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if machine.HostKeys == nil {
		return nil, refuse(failed, "this agent may not change the system it runs in")
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	if _, err := findSSH(); err != nil {
		return nil, err
	}
	keys, err := machine.HostKeys(request.MachineID)
	if err != nil {
		return nil, refuse(failed, "host keys: "+err.Error())
	}
	return map[string][]string{"host_keys": keys}, nil
}

// doSSH joins a stream to an ssh server of its own. So it needs no network, no port, no service that has started, and
// nothing in anybody's home.
func doSSH(machine *Machine, st *stream, text []byte) (any, error) {
	var request sshRequest
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	program, err := findSSH()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(HostKeyFile); err != nil {
		return nil, refuse(failed, "the ssh server has no host key: "+err.Error())
	}
	if err := welcome(request.AuthorizedKeys); err != nil {
		return nil, err
	}
	ours, ends, err := sshEnds()
	if err != nil {
		return nil, refuse(failed, err.Error())
	}
	defer ours.Close()
	argv := sshCommand(program, request.User)
	running, err := start(&command{path: program, argv: argv, env: []string{"PATH=" + DefaultPath}, cwd: "/"}, ends)
	if err != nil {
		return nil, err
	}
	st.onReset(func() { _ = ours.Close() })
	if carry(st, ours) > 0 {
		st.eof()
		running.wait(&endings{})
		return struct{}{}, nil
	}
	if status := running.wait(&endings{}); status != 0 { // before an eof, at which ssh would leave
		return nil, refuse(failed, "sshd ended with status "+strconv.Itoa(status.ExitStatus())+": "+complaint(argv))
	}
	return struct{}{}, nil
}

// carry moves bytes both ways until the server ends, and tells how many it has sent.
func carry(st *stream, ours *net.UnixConn) int {
	st.opened(struct{}{})
	go func() {
		st.receive(ours)
		_ = ours.CloseWrite()
	}()
	counted := &counter{from: ours}
	st.pump(wire.Data, counted)
	return counted.bytes
}

// complaint is what keeps the server from starting. It is asked in its test mode: in any other it talks to the system's log
// or, as its sessions do too, to the terminal of whoever logs in.
func complaint(argv []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	defer cancel()
	test := exec.CommandContext(ctx, argv[0], append([]string{"-t"}, argv[2:]...)...)
	said, _ := test.CombinedOutput()
	text := strings.ToValidUTF8(strings.Join(strings.Fields(string(said)), " "), "?")
	return text[:min(len(text), longestComplaint)]
}

// welcome puts the keys that may log in where the server finds them: outside all homes, and gone with the boot.
func welcome(keys []string) error {
	for _, key := range keys {
		if strings.ContainsAny(key, "\n\r\x00") {
			return refuse(badRequest, "authorized_keys: an entry is not one line")
		}
	}
	content := strings.Join(keys, "\n") + "\n"
	_ = os.Mkdir("/run/sshd", 0o755) // Debian's sshd does not start without, and only its service makes it
	if err := os.MkdirAll(filepath.Dir(welcomedKeys), 0o755); err != nil {
		return refuse(failed, err.Error())
	}
	if old, err := os.ReadFile(welcomedKeys); err == nil && string(old) == content {
		return nil
	}
	fresh, err := os.CreateTemp(filepath.Dir(welcomedKeys), ".keys-*")
	if err != nil {
		return refuse(failed, err.Error())
	}
	defer os.Remove(fresh.Name())
	_, err = fresh.WriteString(content)
	if err == nil {
		err = fresh.Chmod(0o644) // sshd reads it as the user who logs in
	}
	if err == nil {
		err = fresh.Close()
	}
	if err == nil {
		err = os.Rename(fresh.Name(), welcomedKeys)
	}
	if err != nil {
		return refuse(failed, err.Error())
	}
	return nil
}

// sshEnds makes a socket that is the server's stdin and stdout.
func sshEnds() (*net.UnixConn, *endings, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "ssh"), os.NewFile(uintptr(pair[1]), "sshd")
	defer near.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		_ = far.Close()
		return nil, nil, err
	}
	ends := &endings{theirs: [3]*os.File{far, far, null}}
	conn, err := net.FileConn(near)
	if err != nil {
		ends.closeTheirs()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), ends, nil
}

// counter tells how much has come.
type counter struct {
	from  *net.UnixConn
	bytes int
}

func (c *counter) Read(into []byte) (int, error) {
	n, err := c.from.Read(into)
	c.bytes += n
	return n, err
}
