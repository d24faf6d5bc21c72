package boot

import (
	"strconv"
	"syscall"

	"banger/agent/serve"
)

// run starts what the image is for, unless trouble has come first. It is a child of process 1, so that it outlives a server
// that dies and is not started again by the next one; it is started once, since the machine is identified to us once.
func (k *keeper) run(trouble error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked := k.first
	switch {
	case len(asked.Command) == 0:
		k.say("none")
		return
	case trouble == nil:
		k.command, trouble = serve.Launch(asked.Command, asked.Env, asked.Cwd, asked.User)
	}
	if trouble != nil {
		k.command = 0
		problem := serve.Brief(trouble)
		serve.Note("what the image runs does not start: ", problem)
		k.say("problem " + problem)
		return
	}
	k.say("running " + strconv.Itoa(k.command))
}

// over is told under the lock that the command has ended.
func (k *keeper) over(status syscall.WaitStatus) {
	k.command = 0
	word := serve.Ended(status)
	serve.Note("what the image runs has ended: ", word)
	k.say(word)
}

// say keeps the last word on the command, for the servers that may follow, and tells this one.
func (k *keeper) say(word string) {
	k.word = "command " + word
	if k.tell != nil {
		_, _ = k.tell.WriteString(k.word + "\n")
	}
}

// signal goes to the command alone, as its author expects who says which signal stops it.
func (k *keeper) signal(text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if number, err := strconv.Atoi(text); err == nil && k.command > 0 {
		_ = syscall.Kill(k.command, syscall.Signal(number))
	}
}
