package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/agent/port"
	"banger/agent/wire"
)

// host is the daemon's side of a conversation.
type host struct {
	t      *testing.T
	conn   net.Conn
	reader *wire.Reader
	tag    uint32
	last   uint32
}

func serving(t *testing.T, machine *Machine) *host {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	from, err := port.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = Forever(from, machine) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &host{t: t, conn: conn, reader: wire.NewReader(conn)}
}

func ready() *Machine {
	machine := NewMachine("test")
	machine.Ready("")
	return machine
}

func (h *host) write(data []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(data); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) hello(epoch uint32) wire.Greeting {
	h.t.Helper()
	h.tag, h.last = epoch, 0
	h.write(append(make([]byte, 65552), wire.Marker...))
	h.frame(wire.Hello, 0, encode(wire.Greeting{Wire: 1, Epoch: epoch, Version: "test"}))
	for {
		found, err := h.reader.Hunt()
		if err != nil {
			h.t.Fatal(err)
		}
		if found.Epoch == epoch {
			return found
		}
	}
}

func (h *host) frame(kind byte, stream uint32, payload []byte) {
	h.t.Helper()
	h.write(wire.Append(nil, kind, stream, payload, h.tag))
}

func (h *host) open(request string, credit byte) uint32 {
	h.t.Helper()
	h.last++
	h.frame(wire.Open, h.last, []byte(request))
	h.frame(wire.Credit, h.last, []byte{0, credit, 0, 0})
	return h.last
}

type outcome struct {
	out, err []byte
	end      string
}

// finish collects a stream until its end, granting what it reads.
func (h *host) finish(stream uint32) (got outcome) {
	h.t.Helper()
	for {
		frame := h.next(stream)
		switch frame.Kind {
		case wire.Data:
			got.out = append(got.out, frame.Payload...)
		case wire.Stderr:
			got.err = append(got.err, frame.Payload...)
		case wire.End:
			got.end = string(frame.Payload)
			return got
		}
		if n := len(frame.Payload); n > 0 && (frame.Kind == wire.Data || frame.Kind == wire.Stderr) {
			h.frame(wire.Credit, stream, []byte{0, 0, byte(n >> 8), byte(n)})
		}
	}
}

func (h *host) next(stream uint32) wire.Frame {
	h.t.Helper()
	for {
		frame, err := h.reader.Next()
		if err != nil {
			h.t.Fatal(err)
		}
		if frame.Stream == stream {
			return frame
		}
	}
}

func (h *host) ask(request string) outcome {
	h.t.Helper()
	return h.finish(h.open(request, 4))
}

func sh(script, more string) string {
	text, _ := json.Marshal(script)
	return `{"op":"exec","argv":["/bin/sh","-c",` + string(text) + `],"env":{"WORD":"given"},"cwd":null,"user":null,"tty":null,"stdin":false` + more + `}`
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOutputErrorsAndStatusArriveApart(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	got := h.ask(sh(`printf '\0\377%s' "$WORD"; echo bad >&2; exit 3`, ""))
	expect(t, string(got.out), "\x00\xffgiven")
	expect(t, string(got.err), "bad\n")
	expect(t, got.end, `{"ok":{"exit":3}}`)
	expect(t, h.ask(sh(`kill -KILL $$`, "")).end, `{"ok":{"signal":"KILL"}}`)
}

func TestWhatCannotBeDoneIsSaidInTheWordsOfThePage(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	for request, code := range map[string]string{
		`{"op":"ping","x":1}`: badRequest, `[]`: badRequest, `{"op":"dance"}`: unknownOp, `{"op":"exec","argv":[""]}`: badRequest,
		`{"op":"exec","argv":["no-such-command"]}`: noCommand, `{"op":"exec","argv":["/etc/passwd"]}`: notPermitted,
		`{"op":"exec","argv":["true"],"user":"no-such-user"}`: notFound, `{"op":"exec","argv":["true"],"cwd":"/no-such-folder"}`: notFound,
		`{"op":"dial","port":0}`: badRequest, `{"op":"identity"}`: failed, `{"op":"poweroff"}`: failed, `{"op":"dial","port":1}`: refused,
	} {
		if end := h.ask(request).end; !strings.Contains(end, `"code":"`+code+`"`) {
			t.Errorf("%s: %s", request, end)
		}
	}
}

func TestATerminalIsOne(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	request := `{"op":"exec","argv":["/bin/sh","-c","test -t 0 && stty size; echo $TERM; read word; echo got $word; stty size"],"tty":{"rows":30,"cols":99,"term":"vt100"},"stdin":true}`
	stream := h.open(request, 4)
	for seen := ""; !strings.Contains(seen, "vt100"); {
		if frame := h.next(stream); frame.Kind == wire.Data {
			seen += string(frame.Payload)
			expect(t, seen, "30 99\r\nvt100\r\n"[:len(seen)])
		}
	}
	h.frame(wire.Control, stream, []byte(`{"resize":{"rows":40,"cols":120}}`))
	h.frame(wire.Data, stream, []byte("hey\n"))
	got := h.finish(stream)
	expect(t, string(got.out), "hey\r\ngot hey\r\n40 120\r\n")
	expect(t, got.end, `{"ok":{"exit":0}}`)
}

func TestNothingIsSentBeyondTheCredit(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	stream := h.open(sh("head -c 500000 /dev/zero", ""), 1) // 65,536 bytes
	for total := 0; total < 65536; {
		if frame := h.next(stream); frame.Kind == wire.Data {
			total += len(frame.Payload)
			if total > 65536 {
				t.Fatalf("%d bytes", total)
			}
		}
	}
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`) // the next thing that comes, and nobody waits for the other stream
	h.frame(wire.Credit, stream, []byte{0, 15, 0, 0})
	if got := h.finish(stream); len(got.out) != 500000-65536 {
		t.Errorf("%d bytes more", len(got.out))
	}
}

func TestAHostThatExceedsItsCreditIsHuntedAway(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	stream := h.open(`{"op":"exec","argv":["sleep","60"],"stdin":true}`, 4)
	for range 6 {
		h.frame(wire.Data, stream, make([]byte, 65536))
	}
	h.hello(8)
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
}

func TestABackgroundProcessDoesNotHoldTheEnd(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	began := time.Now()
	got := h.ask(sh("sleep 30 & echo said", ""))
	expect(t, string(got.out), "said\n")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestANewEpochEndsWhatTheOldOneStarted(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	stream := h.open(sh("trap '' HUP; sleep 1000 & sleep 1001; :", ""), 4)
	var opened struct{ Pid int }
	if err := json.Unmarshal(h.next(stream).Payload, &opened); err != nil {
		t.Fatal(err)
	}
	h.write(wire.Append(nil, wire.Data, stream, make([]byte, 900), 7)[:500]) // cut in the middle of a frame
	h.hello(8)
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
	for end := time.Now().Add(5 * time.Second); len(members(opened.Pid)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the session lives on")
		}
	}
}

func TestARequestWaitsForTheRootOrHearsWhyThereIsNone(t *testing.T) {
	machine := NewMachine("test")
	h := serving(t, machine)
	expect(t, h.hello(7).BootError, "")
	held, given := h.open(sh("echo", ""), 4), h.open(sh("echo", ""), 4)
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
	h.frame(wire.Reset, given, nil)
	expect(t, h.finish(given).end, `{"error":{"code":"failed","message":"given up"}}`)
	machine.Ready("disk root is missing")
	expect(t, h.finish(held).end, `{"error":{"code":"failed","message":"disk root is missing"}}`)
	expect(t, h.hello(8).BootError, "disk root is missing")
}

func TestADialledServerAndTheHostEndTheirHalvesApart(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	heard := make(chan []byte, 1)
	go func() {
		conn, _ := server.Accept()
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.Repeat([]byte("answer"), 50000))
		_ = conn.Close()
		heard <- all
	}()
	h := serving(t, ready())
	h.hello(7)
	stream := h.open(`{"op":"dial","port":`+number(server.Addr().(*net.TCPAddr).Port)+`}`, 4)
	h.next(stream)
	h.frame(wire.Data, stream, []byte("question"))
	h.frame(wire.EOF, stream, nil)
	got := h.finish(stream)
	expect(t, string(<-heard), "question")
	expect(t, got.end, `{"ok":{}}`)
	if len(got.out) != 300000 {
		t.Errorf("%d bytes", len(got.out))
	}
}

func TestOneMoreThanManyStreamsIsRefused(t *testing.T) {
	h := serving(t, NewMachine("test")) // no root: they all wait
	h.hello(7)
	for range maxStreams {
		h.open(sh("echo", ""), 4)
	}
	if end := h.ask(`{"op":"ping"}`).end; !strings.Contains(end, "more than 256 streams") {
		t.Error(end)
	}
}

func TestASignalGoesToTheGroup(t *testing.T) {
	h := serving(t, ready())
	h.hello(7)
	stream := h.open(sh("sleep 60 | sleep 60", ""), 4)
	h.next(stream)
	h.frame(wire.Control, stream, []byte(`{"signal":"NONSENSE"}`))
	h.frame(wire.Control, stream, []byte(`{"signal":"TERM"}`))
	expect(t, h.finish(stream).end, `{"ok":{"signal":"TERM"}}`)
}

func TestAnotherMajorVersionIsAnsweredAndNotTalkedTo(t *testing.T) {
	h := serving(t, ready())
	h.write(append(make([]byte, 65552), wire.Marker...))
	h.tag = 5
	h.frame(wire.Hello, 0, []byte(`{"wire":2,"epoch":5,"version":"9"}`))
	found, err := h.reader.Hunt()
	if err != nil || found.Wire != 1 || found.Epoch != 5 {
		t.Fatal(found, err)
	}
	h.hello(6)
	expect(t, h.ask(`{"op":"ping"}`).end, `{"ok":{}}`)
}

func TestTheSessionOfAProcessIsFoundWhateverItsName(t *testing.T) {
	if got := sessionOf([]byte("7 (a) Z (b) 9) S 1 7 42 0")); got != 42 {
		t.Error(got)
	}
	if got := sessionOf([]byte("7 (dead) Z 1 7 42 0")); got != 0 {
		t.Error(got)
	}
}

func TestNothingHasBootedWhileNobodyCanTellWhatProcess1Is(t *testing.T) {
	if NewMachine("test").booted("") {
		t.Error("an unknown process 1 counts as one that has settled")
	}
}

func TestAFileOfAnImagesIsReadOnlyIfItIsOne(t *testing.T) {
	folder := t.TempDir()
	pipe, link, plain := filepath.Join(folder, "pipe"), filepath.Join(folder, "link"), filepath.Join(folder, "plain")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink("/dev/zero", link), os.WriteFile(plain, []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{pipe: "", link: "", folder: "", plain: "text", filepath.Join(folder, "none"): ""} {
		expect(t, string(readImage(path)), want)
	}
}

func TestAUserIsAnyOfTheFormsOfContainerImages(t *testing.T) {
	for asked, want := range map[string][2]uint32{"": {0, 0}, "0": {0, 0}, "root": {0, 0}, "123456": {123456, 0}, "123456:7": {123456, 7}, "root:": {0, 0}, "0:root": {0, 0}} {
		who, err := findAccount(asked)
		if err != nil || who.uid != want[0] || who.gid != want[1] {
			t.Errorf("%q is %d:%d, %v", asked, who.uid, who.gid, err)
		}
	}
	for _, asked := range []string{"no-such-user", "0:no-such-group", ":0", "-1", "4294967295"} {
		if _, err := findAccount(asked); err == nil {
			t.Errorf("%q is somebody", asked)
		}
	}
}
