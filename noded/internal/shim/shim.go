package shim

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
)

// Exit statuses of the shim itself. The attempt's own is in its exit record.
const (
	exitDone   = 0
	exitBroken = 1
)

const (
	// strayGraceMS bounds the grace of processes that outlive the job's first one.
	strayGraceMS = 5_000
	// leaseGraceMS bounds the grace when the lease ran out: the controller gives the job away soon after.
	leaseGraceMS = 5_000
	// killAgainMS is the pause between two rounds of SIGKILL, doubled up to killAgainMaxMS: processes in uninterruptible
	// sleep die when they wake.
	killAgainMS    = 20
	killAgainMaxMS = 1_000
	// pollEmptyMS is how often the group is looked at while the shim has no child left but the group has members.
	pollEmptyMS = 20
)

// Serve takes attempts from handoff.OrdersFD, one after another, and owns each until it is over. It returns the shim's exit
// status when the daemon has closed the socket.
func Serve() int {
	if err := closeAllOnExec(); err != nil {
		return broken("start", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return broken("start", os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err))
	}
	sigs := make(chan os.Signal, 16)
	// SIGCONT says that there is something in the attempt's file; its default does no harm to a shim that has none.
	signal.Notify(sigs, unix.SIGCHLD, unix.SIGCONT, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	for {
		file, notify, err := receive(handoff.OrdersFD)
		if err != nil {
			return broken("orders", err)
		}
		if file == nil {
			return exitDone
		}
		err = own(file, notify, sigs)
		// The lock goes first: whoever hears the pipe close finds the attempt over.
		_ = file.Close()
		_ = unix.Close(notify)
		if err != nil {
			return broken(file.Name(), err)
		}
	}
}

// receive waits for an attempt; a nil file says that there will be none.
func receive(sock int) (file *os.File, notify int, err error) {
	name := make([]byte, 4096)
	rights := make([]byte, unix.CmsgSpace(2*4))
	var n, rn int
	for {
		n, rn, _, _, err = unix.Recvmsg(sock, name, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n == 0 {
		return nil, -1, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(msgs) != 1 {
		return nil, -1, errors.New("an order without descriptors")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 2 {
		return nil, -1, errors.New("an order without descriptors")
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), fds[1], nil
}

// own sees one attempt to its end.
func own(file *os.File, notify int, sigs chan os.Signal) error {
	b, err := readFrom(file, 0)
	if err != nil {
		return err
	}
	order, size, err := handoff.ParseOrder(b)
	if err != nil {
		return errors.New("order: " + err.Error())
	}
	s := &shim{file: file, notify: notify, sigs: sigs, order: order, graceMS: max(0, order.GraceMS), recordsFrom: int64(size)}
	defer s.alarm.close()
	if err := s.listen(); err != nil {
		return err
	}
	exit := s.run()
	return WriteExit(file, exit)
}

// broken tells the shims' common log. The daemon sees that there is no exit record.
func broken(path string, err error) int {
	_, _ = os.Stderr.WriteString("fettle-shim: " + path + ": " + err.Error() + "\n")
	return exitBroken
}

type shim struct {
	file   *os.File
	notify int
	order  *handoff.Order
	tree   killtree.Tree // the cgroup, nil without one
	below  killtree.Descendants

	sigs  chan os.Signal
	alarm alarm

	recordsFrom int64

	main      int
	mainEnded bool
	exit      handoff.Exit
	startBoot int64
	limitS    int64
	leaseAt   int64
	graceMS   int64

	stopping  bool
	strays    bool
	termed    map[int]bool
	killAt    int64
	killAgain int64
}

// listen makes the shim able to be found and told things, before anything else happens.
func (s *shim) listen() error {
	for len(s.sigs) > 0 {
		<-s.sigs // of the attempt before
	}
	s.below.Root = os.Getpid()
	switch cg := s.order.Cgroup; {
	case cg.V2Dir != "":
		s.tree = killtree.V2{Dir: cg.V2Dir}
	case cg.FreezerDir != "":
		s.tree = killtree.V1{Dir: cg.FreezerDir, Except: os.Getpid()}
	}
	s.limitS = s.order.TimeLimitS
	rec := handoff.Shim{PID: int32(os.Getpid())}
	return s.append(rec.Marshal())
}

func (s *shim) append(record []byte) error {
	_, err := s.file.Write(record)
	return err
}

// run starts the attempt and sees it to its end.
func (s *shim) run() *handoff.Exit {
	never := handoff.Exit{Code: -1, NeverStarted: true, EndMS: wallNow()}
	s.readControl()
	if s.stopping {
		never.Detail = "ended before it was started"
		return &never
	}
	s.startBoot = bootNow()
	if s.leaseGone(s.startBoot) {
		never.Detail, never.LeaseExpired = "the node's lease had run out before the start", true
		return &never
	}
	if err := s.append(handoff.Launch{}.Marshal()); err != nil {
		never.Detail = err.Error()
		return &never
	}
	s.exit.StartMS = wallNow()
	pid, outputs, err := launch(s.order)
	if err != nil {
		var u *userError
		never.UserError = errors.As(err, &u)
		never.Detail = oneLine(err.Error())
		return &never
	}
	s.main, s.exit.Outputs = pid, outputs
	if outputs != (handoff.Outputs{}) {
		// Without the record the whole file passes for the attempt's until the exit record says better.
		_ = s.append(outputs.Marshal())
	}
	_, _ = unix.Write(s.notify, []byte{handoff.NotifyStarted})
	s.loop()
	s.exit.OOMKilled = oomKilled(s.order.Cgroup)
	s.exit.EndMS = wallNow()
	return &s.exit
}

func (s *shim) loop() {
	for {
		childless := s.reap()
		now := bootNow()
		if s.mainEnded && childless && s.groupEmpty() {
			return
		}
		s.limits(now)
		if s.mainEnded && !s.strays {
			s.strays = true
			s.endStrays(now)
		}
		if s.stopping && now >= s.killAt {
			s.kill()
			s.killAgain = min(max(2*s.killAgain, killAgainMS), killAgainMaxMS)
			s.killAt = bootNow() + s.killAgain
			continue
		}
		s.wait(s.nextAlarm(now, childless))
	}
}

// wait sleeps until a signal comes or the alarm rings.
func (s *shim) wait(at int64) {
	if err := s.alarm.set(at); err != nil {
		// Without a timer no limit can be kept: end what cannot be bounded.
		_ = broken(s.file.Name(), err)
		s.stop(bootNow(), 0)
	}
	select {
	case sig := <-s.sigs:
		switch sig {
		case unix.SIGCHLD:
		case unix.SIGCONT:
			s.readControl()
		default:
			// Somebody ends the shim by hand: the attempt ends with it, as the daemon would have ended it.
			s.stop(bootNow(), s.graceMS)
		}
	case <-s.alarm.ring:
		s.alarm.at = 0
	}
}

// reap collects every dead child, the adopted ones too, and says whether none is left.
func (s *shim) reap() (childless bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return true // ECHILD
		case pid == 0:
			return false
		case pid == s.main && (ws.Exited() || ws.Signaled()):
			s.mainEnded = true
			if ws.Signaled() {
				s.exit.Code, s.exit.Signal = -1, int32(ws.Signal())
			} else {
				s.exit.Code = int32(ws.ExitStatus())
			}
		}
	}
}

func (s *shim) groupEmpty() bool {
	if s.tree == nil {
		return true
	}
	empty, err := s.tree.Empty()
	return err == nil && empty
}

// limits checks the time limit and the lease. An attempt whose first process is gone is over anyway.
func (s *shim) limits(now int64) {
	if !s.mainEnded && s.limitS > 0 && now >= s.startBoot+s.limitS*1000 && !s.exit.TimedOut && !s.stopping {
		s.exit.TimedOut = true
		s.stop(now, s.graceMS)
	}
	if s.order.LeaseEpochMS != 0 && !s.exit.LeaseExpired && now >= s.leaseAt && s.leaseGone(now) {
		s.exit.LeaseExpired = true
		// Counted from the deadline, not from when it was noticed: after a suspend there may be no time left.
		s.stop(max(0, s.leaseAt), min(s.graceMS, leaseGraceMS))
	}
}

// stop ends the attempt: TERM now, KILL when the grace has passed. A second stop may only bring the end nearer.
func (s *shim) stop(from, graceMS int64) {
	killAt := from + max(0, graceMS)
	if s.stopping {
		s.killAt = min(s.killAt, killAt)
		return
	}
	s.stopping, s.killAt = true, killAt
	if s.main != 0 {
		s.term()
	}
}

// term asks every process that was not asked yet to end. None is asked twice: to some a second TERM means at once.
func (s *shim) term() {
	if s.termed == nil {
		s.termed = map[int]bool{}
	}
	s.signal(unix.SIGTERM, s.termed)
	s.signal(unix.SIGCONT, nil) // a stopped process cannot end itself
}

// endStrays ends what the first process has left behind. When the attempt is being ended already the grace that was given
// goes on: a trainer may be saving its state while the script that started it is gone.
func (s *shim) endStrays(now int64) {
	if s.stopping {
		s.term()
		return
	}
	s.stop(now, min(s.graceMS, strayGraceMS))
}

// signal reaches every process of the attempt, in the cgroup or not, that had does not hold.
func (s *shim) signal(sig unix.Signal, had map[int]bool) {
	var tree killtree.Tree = s.below
	if s.tree != nil {
		tree = s.tree
	}
	if err := killtree.Signal(tree, sig, had); err != nil {
		_ = broken(s.file.Name(), err)
	}
}

func (s *shim) kill() {
	if s.tree != nil {
		if err := s.tree.Kill(); err != nil {
			_ = broken(s.file.Name(), err)
		}
		if empty, err := s.tree.Empty(); err != nil || !empty {
			return
		}
	}
	// What has left the group, and everything where there is none.
	if err := s.below.Kill(); err != nil {
		_ = broken(s.file.Name(), err)
	}
}

// nextAlarm is the earliest instant at which something must be looked at; 0 for none.
func (s *shim) nextAlarm(now int64, childless bool) int64 {
	next := int64(0)
	soonest := func(at int64) {
		if next == 0 || at < next {
			next = max(at, 1)
		}
	}
	if s.stopping {
		soonest(s.killAt)
	}
	if s.mainEnded && childless {
		soonest(now + pollEmptyMS)
	}
	if s.limitS > 0 && !s.mainEnded && !s.exit.TimedOut && !s.stopping {
		soonest(s.startBoot + s.limitS*1000)
	}
	if s.order.LeaseEpochMS != 0 && !s.exit.LeaseExpired {
		soonest(s.leaseAt)
	}
	return next
}

// readControl carries out what the daemon has appended since the last look.
func (s *shim) readControl() {
	b, err := readFrom(s.file, s.recordsFrom)
	if err != nil {
		_ = broken(s.file.Name(), err)
		return
	}
	recs, taken := handoff.ParseRecords(b)
	s.recordsFrom += int64(taken)
	for _, c := range recs.Controls {
		switch {
		case c.Stop && c.VRAMExceeded:
			// What was ended for another reason was not ended for this one.
			if !s.stopping && !s.mainEnded {
				s.exit.VRAMExceeded, s.exit.Detail = true, c.Detail
				s.stop(bootNow(), c.GraceMS)
			}
		case c.Stop:
			s.stop(bootNow(), c.GraceMS)
		case c.Signal != 0:
			if s.main != 0 {
				s.signal(unix.Signal(c.Signal), nil)
			}
		case c.Limit:
			s.limitS = max(0, c.LimitS)
		}
	}
}

// leaseGone reads the node's lease and says whether the attempt may not go on. It sets when to look again.
func (s *shim) leaseGone(now int64) bool {
	if s.order.LeaseEpochMS == 0 {
		return false
	}
	l, err := readLease(s.order.LeasePath)
	if err != nil {
		// What cannot be read extends nothing: the last known deadline holds.
		return now >= s.leaseAt
	}
	if l.EpochMS != s.order.LeaseEpochMS {
		return true
	}
	s.leaseAt = l.DeadlineMS
	return now >= s.leaseAt
}

// leaseReads bounds how often a lease that is being replaced is read again.
const leaseReads = 100

func readLease(path string) (*handoff.Lease, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, handoff.LeaseSize)
	for range leaseReads {
		var n int
		if n, err = f.ReadAt(buf, 0); n < len(buf) {
			continue
		}
		var l *handoff.Lease
		if l, err = handoff.ParseLease(buf); err == nil {
			return l, nil
		}
	}
	return nil, err
}

// oomKilled says whether the kernel has killed for want of memory in the group since it was given to the attempt.
func oomKilled(cg handoff.Cgroup) bool {
	n, err := killtree.OOMKills(cg.OOMFile)
	return err == nil && n > cg.OOMBase
}
