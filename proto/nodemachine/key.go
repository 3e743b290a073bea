package nodemachine

import (
	"cmp"
	"strconv"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Key names an attempt: the job, which try it is, and the Raft index that dispatched it.
type Key struct {
	Job     uint64
	Attempt uint32
	Fence   uint64
}

// KeyOf reads a key from the wire; a nil one is the zero Key.
func KeyOf(k *fettlev1.AttemptKey) Key {
	return Key{Job: k.GetJobId(), Attempt: k.GetAttempt(), Fence: k.GetFence()}
}

// Proto is the key as it travels.
func (k Key) Proto() *fettlev1.AttemptKey {
	return &fettlev1.AttemptKey{JobId: k.Job, Attempt: k.Attempt, Fence: k.Fence}
}

// IsZero says whether the key names nothing.
func (k Key) IsZero() bool { return k == Key{} }

// String gives "JOB.ATTEMPT.FENCE", which is also the name of the attempt's directory and cgroup.
func (k Key) String() string {
	b := make([]byte, 0, 40)
	b = strconv.AppendUint(b, k.Job, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(k.Attempt), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, k.Fence, 10)
	return string(b)
}

// ParseKey reads what String wrote. Anything else, leading zeros and signs included, is refused.
func ParseKey(s string) (Key, bool) {
	var parts [3]uint64
	for i := range parts {
		end := 0
		for end < len(s) && s[end] >= '0' && s[end] <= '9' {
			end++
		}
		bits := 64
		if i == 1 {
			bits = 32
		}
		n, err := strconv.ParseUint(s[:end], 10, bits)
		if err != nil || (end > 1 && s[0] == '0') {
			return Key{}, false
		}
		parts[i] = n
		s = s[end:]
		if i < 2 {
			if s == "" || s[0] != '.' {
				return Key{}, false
			}
			s = s[1:]
		}
	}
	if s != "" || parts[0] == 0 {
		return Key{}, false
	}
	return Key{Job: parts[0], Attempt: uint32(parts[1]), Fence: parts[2]}, true
}

// Compare orders keys by job, attempt, fence.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Job, o.Job), cmp.Compare(k.Attempt, o.Attempt), cmp.Compare(k.Fence, o.Fence))
}
