package handoff

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
	// Detail is one line for people.
	Detail string
	// StartMS and EndMS are Unix milliseconds.
	StartMS, EndMS int64
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
	return seal(kindExit, f)
}

// ParseExit decodes an exit.
func ParseExit(b []byte) (*Exit, error) {
	p, _, err := open(kindExit, b)
	if err != nil {
		return nil, err
	}
	e := &Exit{}
	err = each(p, func(tag uint64, v []byte) {
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

// ParseShim decodes the record.
func ParseShim(b []byte) (*Shim, error) {
	p, _, err := open(kindShim, b)
	if err != nil {
		return nil, err
	}
	s := &Shim{}
	err = each(p, func(tag uint64, v []byte) {
		if tag == 1 {
			s.PID = int32(num(v))
		}
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Control is one order to a running shim. Exactly one of Stop, Signal and Limit is meant.
type Control struct {
	// Stop ends the attempt with GraceMS between TERM and KILL.
	Stop    bool
	GraceMS int64
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
)

// Marshal encodes the record for appending to the control file.
func (c *Control) Marshal() []byte {
	var f fields
	f.flag(controlStop, c.Stop)
	f.num(controlGrace, c.GraceMS)
	f.num(controlSignal, int64(c.Signal))
	f.flag(controlLimit, c.Limit)
	f.num(controlLimitS, c.LimitS)
	return seal(kindControl, f)
}

// ParseControls decodes as many whole records as b holds and says how many bytes they took. A damaged record is passed
// over; one that is cut short is left for the next read.
func ParseControls(b []byte) (cs []Control, taken int) {
	rest := b
	for len(rest) >= envelopeSize {
		p, after, err := open(kindControl, rest)
		switch err {
		case nil:
			var c Control
			if each(p, func(tag uint64, v []byte) {
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
				}
			}) == nil {
				cs = append(cs, c)
			}
			rest = after
		default:
			next := nextEnvelope(rest)
			if next < 0 {
				return cs, len(b) - len(rest)
			}
			rest = rest[next:]
		}
	}
	return cs, len(b) - len(rest)
}

// nextEnvelope finds the next whole control record after the one at the start of b, -1 if there is none yet.
func nextEnvelope(b []byte) int {
	for i := 1; i+envelopeSize <= len(b); i++ {
		if b[i] != envelopeMagic&0xff {
			continue
		}
		if _, _, err := open(kindControl, b[i:]); err == nil {
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
