package handoff

import "errors"

// Exit is how an attempt ended on this node.
type Exit struct {
	// Code is the first process's exit status, -1 when a signal ended it or it never ran.
	Code   int32
	Signal int32
	// NeverStarted: no process of the attempt was executed. UserError: the reason lies with the user's settings.
	NeverStarted bool
	UserError    bool
	OOMKilled    bool
	TimedOut     bool
	LeaseExpired bool
	ShimLost     bool
	// VRAMExceeded: the daemon had it ended for using more GPU memory than its share.
	VRAMExceeded bool
	// Detail is one line for people.
	Detail string
	// StartMS and EndMS are Unix milliseconds.
	StartMS, EndMS int64
	Outputs        Outputs
}

// Outputs says where an attempt's own output begins in its files, in bytes: what a file held before is not the attempt's.
type Outputs struct{ StdoutStart, StderrStart int64 }

// Marshal encodes the record.
func (o Outputs) Marshal() []byte {
	var f fields
	f.num(outputsStdout, o.StdoutStart)
	f.num(outputsStderr, o.StderrStart)
	return seal(kindOutputs, f)
}

const (
	outputsStdout = iota + 1
	outputsStderr
)

func parseOutputs(p []byte) (*Outputs, error) {
	o := &Outputs{}
	err := each(p, func(tag uint64, v []byte) {
		switch tag {
		case outputsStdout:
			o.StdoutStart = num(v)
		case outputsStderr:
			o.StderrStart = num(v)
		}
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

const (
	exitCode = iota + 1
	exitSignal
	exitNeverStarted
	exitUserError
	exitOOMKilled
	exitTimedOut
	exitLeaseExpired
	exitShimLost
	exitDetail
	exitStart
	exitEnd
	exitStdoutStart
	exitStderrStart
	exitVRAMExceeded
)

// Marshal encodes the exit.
func (e *Exit) Marshal() []byte {
	var f fields
	f.num(exitCode, int64(e.Code))
	f.num(exitSignal, int64(e.Signal))
	f.flag(exitNeverStarted, e.NeverStarted)
	f.flag(exitUserError, e.UserError)
	f.flag(exitOOMKilled, e.OOMKilled)
	f.flag(exitTimedOut, e.TimedOut)
	f.flag(exitLeaseExpired, e.LeaseExpired)
	f.flag(exitShimLost, e.ShimLost)
	f.text(exitDetail, e.Detail)
	f.num(exitStart, e.StartMS)
	f.num(exitEnd, e.EndMS)
	f.num(exitStdoutStart, e.Outputs.StdoutStart)
	f.num(exitStderrStart, e.Outputs.StderrStart)
	f.flag(exitVRAMExceeded, e.VRAMExceeded)
	return seal(kindExit, f)
}

func parseExit(p []byte) (*Exit, error) {
	e := &Exit{}
	err := each(p, func(tag uint64, v []byte) {
		switch tag {
		case exitCode:
			e.Code = int32(num(v))
		case exitSignal:
			e.Signal = int32(num(v))
		case exitNeverStarted:
			e.NeverStarted = num(v) != 0
		case exitUserError:
			e.UserError = num(v) != 0
		case exitOOMKilled:
			e.OOMKilled = num(v) != 0
		case exitTimedOut:
			e.TimedOut = num(v) != 0
		case exitLeaseExpired:
			e.LeaseExpired = num(v) != 0
		case exitShimLost:
			e.ShimLost = num(v) != 0
		case exitDetail:
			e.Detail = string(v)
		case exitStart:
			e.StartMS = num(v)
		case exitEnd:
			e.EndMS = num(v)
		case exitStdoutStart:
			e.Outputs.StdoutStart = num(v)
		case exitStderrStart:
			e.Outputs.StderrStart = num(v)
		case exitVRAMExceeded:
			e.VRAMExceeded = num(v) != 0
		}
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Shim says which process owns an attempt. It counts only while the attempt's lock is held.
type Shim struct{ PID int32 }

// Marshal encodes the record.
func (s *Shim) Marshal() []byte {
	var f fields
	f.num(1, int64(s.PID))
	return seal(kindShim, f)
}

func parseShim(p []byte) (*Shim, error) {
	s := &Shim{}
	err := each(p, func(tag uint64, v []byte) {
		if tag == 1 {
			s.PID = int32(num(v))
		}
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Launch says that the first process of the attempt is about to be forked.
type Launch struct{}

// Marshal encodes the record.
func (Launch) Marshal() []byte { return seal(kindLaunch, nil) }

// Control is one order to a running shim. Exactly one of Stop, Signal and Limit is meant.
type Control struct {
	// Stop ends the attempt with GraceMS between TERM and KILL.
	Stop    bool
	GraceMS int64
	// VRAMExceeded, with Stop, is what the attempt did to be ended, and Detail says it in one line. An attempt that is being
	// ended already is not told.
	VRAMExceeded bool
	Detail       string
	// Signal is delivered to every process of the attempt.
	Signal int32
	// Limit replaces the time limit by LimitS seconds from the start; 0 means none.
	Limit  bool
	LimitS int64
}

const (
	controlStop = iota + 1
	controlGrace
	controlSignal
	controlLimit
	controlLimitS
	controlVRAMExceeded
	controlDetail
)

// Marshal encodes the record.
func (c *Control) Marshal() []byte {
	var f fields
	f.flag(controlStop, c.Stop)
	f.num(controlGrace, c.GraceMS)
	f.num(controlSignal, int64(c.Signal))
	f.flag(controlLimit, c.Limit)
	f.num(controlLimitS, c.LimitS)
	f.flag(controlVRAMExceeded, c.VRAMExceeded)
	f.text(controlDetail, c.Detail)
	return seal(kindControl, f)
}

func parseControl(p []byte) (*Control, error) {
	c := &Control{}
	err := each(p, func(tag uint64, v []byte) {
		switch tag {
		case controlStop:
			c.Stop = num(v) != 0
		case controlGrace:
			c.GraceMS = num(v)
		case controlSignal:
			c.Signal = int32(num(v))
		case controlLimit:
			c.Limit = num(v) != 0
		case controlLimitS:
			c.LimitS = num(v)
		case controlVRAMExceeded:
			c.VRAMExceeded = num(v) != 0
		case controlDetail:
			c.Detail = string(v)
		}
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Records are what was appended to an attempt's file after the order.
type Records struct {
	Shim     *Shim
	Launched bool
	Controls []Control
	// Outputs is zero for an attempt whose files were empty when it began.
	Outputs Outputs
	Exit    *Exit
	// Damaged counts records that could not be read.
	Damaged int
}

// ParseRecords decodes as many whole records as b holds and says how many bytes they took. Records of kinds that this
// version does not know are passed over, and so is a damaged one when a whole one follows; one that is cut short at the
// end is left for the next read.
func ParseRecords(b []byte) (r Records, taken int) {
	rest := b
	for len(rest) >= envelopeSize {
		kind := rest[2]
		p, after, err := open(kind, rest)
		if errors.Is(err, ErrDamaged) {
			next := nextEnvelope(rest)
			if next < 0 {
				break
			}
			r.Damaged++
			rest = rest[next:]
			continue
		}
		rest = after
		if err == nil {
			err = r.take(kind, p)
		}
		if err != nil {
			r.Damaged++
		}
	}
	return r, len(b) - len(rest)
}

func (r *Records) take(kind byte, p []byte) (err error) {
	switch kind {
	case kindShim:
		r.Shim, err = parseShim(p)
	case kindLaunch:
		r.Launched = true
	case kindControl:
		var c *Control
		if c, err = parseControl(p); err == nil {
			r.Controls = append(r.Controls, *c)
		}
	case kindOutputs:
		var o *Outputs
		if o, err = parseOutputs(p); err == nil {
			r.Outputs = *o
		}
	case kindExit:
		r.Exit, err = parseExit(p)
	}
	return err
}

// nextEnvelope finds the next whole record after the start of b, -1 if there is none yet.
func nextEnvelope(b []byte) int {
	for i := 1; i+envelopeSize <= len(b); i++ {
		if b[i] != envelopeMagic&0xff || b[i+1] != envelopeMagic>>8 {
			continue
		}
		if _, _, err := open(b[i+2], b[i:]); !errors.Is(err, ErrDamaged) {
			return i
		}
	}
	return -1
}

// Lease is the node's lease, shared by all its attempts. Times are CLOCK_BOOTTIME milliseconds of the boot named.
type Lease struct {
	BootID     string
	EpochMS    int64
	DeadlineMS int64
}

// LeaseSize is the fixed size of the encoded lease, so that it can be replaced in place.
const LeaseSize = 128

// Marshal encodes the lease, padded to LeaseSize. A boot id of more than 64 bytes is cut.
func (l *Lease) Marshal() []byte {
	var f fields
	f.text(1, l.BootID[:min(len(l.BootID), 64)])
	f.num(2, l.EpochMS)
	f.num(3, l.DeadlineMS)
	b := seal(kindLease, f)
	return append(b, make([]byte, LeaseSize-len(b))...)
}

// ParseLease decodes a lease. Damage may be a read in the middle of a write: read again.
func ParseLease(b []byte) (*Lease, error) {
	p, _, err := open(kindLease, b)
	if err != nil {
		return nil, err
	}
	l := &Lease{}
	err = each(p, func(tag uint64, v []byte) {
		switch tag {
		case 1:
			l.BootID = string(v)
		case 2:
			l.EpochMS = num(v)
		case 3:
			l.DeadlineMS = num(v)
		}
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}
