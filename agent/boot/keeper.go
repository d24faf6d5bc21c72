package boot

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/agent/serve"
)

// serverName is what the server is called among the processes: the last round of killing of an init that follows
// systemd's convention spares a root process whose name begins with @, as it belongs to the initramfs.
const serverName = "@banger-agent"

// firstLife is what the first server is told: nobody can be in a conversation with it yet.
const firstLife = "first"

const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	goodLife   = 30 * time.Second
	// longestLine that the server writes, in bytes: what it tells of came in one frame.
	longestLine = 1 << 20
)

// keeper keeps one server alive while this program is process 1, and reaps the machine's orphans. It tells each server
// in lines what became of the root and of the command, and hears in a line that the machine has been identified.
type keeper struct {
	identified chan struct{}
	first      first // once it has been identified

	mu    sync.Mutex
	pid   int
	born  time.Time
	pause time.Duration
	tell  *os.File
	news  string
	known sync.Once
	named bool

	command int    // its number, while it runs
	word    string // how it is with the command: "running 7", "exit 3"; empty until that is known
}

func newKeeper() *keeper {
	return &keeper{identified: make(chan struct{}), pause: firstPause}
}

// settle is the news about the root, for this server and those that may follow it.
func (k *keeper) settle(news string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.news = news
	k.inform()
}

func (k *keeper) inform() {
	for _, line := range []string{k.news, k.word} {
		if line != "" && k.tell != nil {
			_, _ = k.tell.WriteString(line + "\n")
		}
	}
}

// hold keeps a new server from starting while the root changes under it.
func (k *keeper) hold() { k.mu.Lock() }

// release is for the servers that follow; the one that runs is inside already.
func (k *keeper) release(news string) {
	k.news = news
	k.mu.Unlock()
}

func (k *keeper) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fork(); err != nil {
		serve.Note("server does not start: ", err.Error())
	}
	k.inform()
}

func (k *keeper) fork() error {
	theirEar, ourMouth, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirEar.Close()
	ourEar, theirMouth, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirMouth.Close()
	state := "nobody"
	if k.named {
		state = "identified"
	}
	life := firstLife
	if !k.born.IsZero() {
		life = "again"
	}
	k.pid, err = syscall.ForkExec("/proc/self/exe", []string{serverName, state, life}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + serve.DefaultPath}, Files: []uintptr{0, 1, 2, theirEar.Fd(), theirMouth.Fd()},
	})
	k.born = time.Now()
	if k.tell != nil {
		_ = k.tell.Close()
	}
	k.tell = ourMouth
	go k.hear(ourEar)
	return err
}

// stay tells the server that nothing will take the place of this program.
func (k *keeper) stay() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tell != nil {
		_, _ = k.tell.WriteString("stays\n")
	}
}

func (k *keeper) hear(from *os.File) {
	defer from.Close()
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "identified":
			k.known.Do(func() { k.identify(rest) })
		case "signal":
			k.signal(rest)
		}
	}
}

func (k *keeper) identify(text string) {
	k.mu.Lock()
	k.named = true
	if err := json.Unmarshal([]byte(text), &k.first); err != nil {
		serve.Note("what process 1 is to become cannot be read: ", err.Error())
	}
	k.mu.Unlock()
	close(k.identified)
}

// reap collects everything that ends, and starts a server again that ended, more slowly each time it did not live long.
func (k *keeper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		k.mu.Lock()
		if err == nil && pid == k.command {
			k.over(status)
		}
		ended := err != nil || pid == k.pid // without any child there is no server either
		if ended && time.Since(k.born) > goodLife {
			k.pause = firstPause
		}
		pause := k.pause
		if ended {
			k.pause = min(2*k.pause, longPause)
		}
		k.mu.Unlock()
		if ended {
			serve.Note("the server ended; starting it again")
			time.Sleep(pause)
			k.start()
		}
	}
}
