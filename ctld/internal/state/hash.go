package state

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// sum is a hash of one row, or the sum of the hashes of many: addition makes the hash of a set that can be kept up to
// date row by row, whatever the order. It guards against accidents, not against an adversary.
type sum [2]uint64

func (s *sum) add(o sum) {
	var carry uint64
	s[0], carry = bits.Add64(s[0], o[0], 0)
	s[1], _ = bits.Add64(s[1], o[1], carry)
}

func (s *sum) sub(o sum) {
	var borrow uint64
	s[0], borrow = bits.Sub64(s[0], o[0], 0)
	s[1], _ = bits.Sub64(s[1], o[1], borrow)
}

// The kinds of rows, first byte of what is hashed.
const (
	tagJob byte = 1 + iota
	tagNode
	tagRequest
	tagServer
	tagPolicy
	tagInventory
	tagMeta
	tagUsage
	tagSpend
	tagReservation
)

// canon writes rows in the one form that is hashed: every field, in a fixed order, lengths before contents. Lines for
// people (details, drain reasons, the wording of remembered refusals) are left out, so that two versions that word them
// differently can serve side by side. A field that is added later is to be hashed only when it is set, or old snapshots
// and old replicas would not agree any more.
type canon []byte

func (c *canon) u(v uint64) { *c = binary.AppendUvarint(*c, v) }
func (c *canon) i(v int64)  { *c = binary.AppendVarint(*c, v) }

func (c *canon) s(v string) {
	c.u(uint64(len(v)))
	*c = append(*c, v...)
}

func (c *canon) b(vs ...bool) {
	for _, v := range vs {
		if v {
			*c = append(*c, 1)
		} else {
			*c = append(*c, 0)
		}
	}
}

func (c *canon) strings(vs []string) {
	c.u(uint64(len(vs)))
	for _, v := range vs {
		c.s(v)
	}
}

func (c canon) sum() sum {
	h := sha256.Sum256(c)
	return sum{binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[8:])}
}

// hashJob covers the row, the hash of what was submitted (and so everything in the specification that never changes) and
// each field of the specification that the controller fills or UpdateJob may change.
func hashJob(buf *canon, j *Job) sum {
	c := (*buf)[:0]
	c = append(c, tagJob)
	c.u(j.ID)
	c = append(c, j.SubmitHash[:]...)
	c.s(j.User)
	c.u(uint64(j.UID))
	c.u(uint64(j.GID))
	c.u(uint64(j.State))
	c.u(uint64(j.Reason))
	c.i(j.SubmitMS)
	c.i(j.EligibleMS)
	c.i(j.StartMS)
	c.i(j.EndMS)
	c.i(j.RetryAtMS)
	c.u(uint64(j.Attempt))
	c.u(uint64(j.Failures))
	c.b(j.Held, j.HeldByAdmin, j.CancelRequested, j.RequeueRequested)
	c.u(uint64(j.EndReason))
	c.i(int64(j.ExitCode))
	c.u(uint64(j.FirstBad))
	c.s(j.RequestID)
	c.u(j.ModifiedIndex)

	s := j.Spec
	c.u(uint64(s.GetPriority()))
	c.s(s.GetPartition())
	c.s(s.GetName())
	c.s(s.GetComment())
	c.i(s.GetTimeLimitS())
	c.i(s.GetBeginMs())
	c.u(uint64(s.GetRetries()))
	c.b(s.GetNoRequeue())
	c.strings(s.GetNodelist())

	c.u(uint64(len(j.Attempts)))
	for _, a := range j.Attempts {
		canonAttempt(&c, a)
	}
	canonLinks(&c, j)
	canonTenant(&c, j)
	*buf = c
	return c.sum()
}

func canonAttempt(c *canon, a *fettlev1.Attempt) {
	c.u(uint64(a.GetNumber()))
	c.u(a.GetFence())
	c.i(a.GetDispatchMs())
	c.i(a.GetStartMs())
	c.i(a.GetEndMs())
	c.u(uint64(a.GetOutcome()))
	c.u(uint64(a.GetReason()))
	c.u(uint64(len(a.GetNodes())))
	for _, n := range a.GetNodes() {
		c.s(n.GetNode())
		c.strings(n.GetGpuUuids())
		c.u(uint64(n.GetCpus()))
		c.i(n.GetMemMib())
		c.b(n.GetPrepared(), n.GetStarted(), n.GetExit() != nil)
		if e := n.GetExit(); e != nil {
			c.i(int64(e.GetCode()))
			c.i(int64(e.GetSignal()))
			c.b(e.GetNeverStarted(), e.GetOomKilled(), e.GetTimedOut(), e.GetLeaseExpired(),
				e.GetShimLost(), e.GetUserError(), e.GetNodeLost())
			c.u(uint64(e.GetClass()))
			c.i(e.GetStartMs())
			c.i(e.GetEndMs())
			if e.GetStdoutStart() != 0 || e.GetStderrStart() != 0 {
				c.s("starts")
				c.i(e.GetStdoutStart())
				c.i(e.GetStderrStart())
			}
		}
		canonShare(c, n)
	}
	canonPreempted(c, a)
}

// hashNode expects inventorySum to be up to date.
func hashNode(buf *canon, n *Node) sum {
	c := (*buf)[:0]
	c = append(c, tagNode)
	c.s(n.Name)
	c.u(uint64(n.State))
	c.b(n.Drained)
	c.s(n.BootID)
	c.u(n.Session)
	c.u(n.inventorySum[0])
	c.u(n.inventorySum[1])
	c.i(n.RegisteredMS)
	c.i(n.StateSinceMS)
	c.u(uint64(n.LaunchFailures))
	c.u(uint64(n.CPUsUsed))
	c.i(n.MemUsedMiB)
	c.u(uint64(len(n.Held)))
	for _, h := range n.Held {
		c.s(h.UUID)
		c.u(h.JobID)
		c.u(uint64(h.Attempt))
		c.mark(markHeldShare, h.VRAMMiB)
	}
	c.mark(markExclusive, int64(n.Exclusive))
	*buf = c
	return c.sum()
}

func hashRequest(buf *canon, r *Request) sum {
	c := (*buf)[:0]
	c = append(c, tagRequest)
	c.u(uint64(r.UID))
	c.s(r.ID)
	c.u(r.Seq)
	c.u(r.Index)
	c = append(c, r.Hash[:]...)
	c.u(r.JobID)
	c.u(uint64(r.Weight))
	*buf = c
	return c.sum()
}

func hashServer(v *raftlogv1.ServerChange) sum { return hashMessage(tagServer, v) }

// hashMessage hashes a protobuf message. Deterministic marshalling is only promised for one build, but with neither maps
// nor unknown fields it is the fields in the order of their numbers, in every build.
func hashMessage(tag byte, m proto.Message) sum {
	c := canon{tag}
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(c, m)
	if err != nil {
		// Only invalid UTF-8 gets here, the same on every replica.
		b = append(c, err.Error()...)
	}
	return canon(b).sum()
}

// hash is that of the whole state. The index is left out: entries that change nothing, such as a new configuration of
// the cluster, may or may not have been seen by a replica that started from a snapshot.
func (t *tables) hash() [32]byte {
	return t.hashOf(t.jobs.w.Len(), t.nodes.w.Len(), t.requests.w.Len())
}

func (t *tables) hashOf(jobs, nodes, requests int) [32]byte {
	m := &t.meta
	c := make(canon, 0, 256)
	c = append(c, tagMeta)
	c.s(t.clusterID)
	c.u(t.total[0])
	c.u(t.total[1])
	c.u(uint64(jobs))
	c.u(uint64(nodes))
	c.u(uint64(requests))
	c.u(m.term)
	c.i(m.nowMS)
	c.u(m.nextID)
	c.u(m.requestSeq)
	c.s(m.leader.ID)
	c.s(m.leader.Name)
	c.s(m.leader.ClientAddr)
	c.u(m.leader.Term)
	return sha256.Sum256(c)
}
