package api

import (
	"slices"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// lateMS is by how much the log may hear of an end late before the row shows the true one. What a report usually takes is
// below it, and rows are then shared as they are.
const lateMS = 1000

// trueEnd is when an attempt ended. The log's own time of it is that of the report, which may come much later: the shim goes
// on when the node's daemon is dead or has no leader. How long the attempt ran is the shim's word, by one clock, so it is
// counted from the log's start; where the log never heard of a start the node's time of the end has to do. It is never
// before the start nor after the report. Ends that no shim has seen stay as they are.
func trueEnd(at *fettlev1.Attempt) int64 {
	first, end := at.GetStartMs(), int64(0)
	if first == 0 {
		first = at.GetDispatchMs()
	}
	for _, p := range at.GetNodes() {
		e := p.GetExit()
		switch {
		case e.GetNeverStarted():
		case e.GetStartMs() <= 0 || e.GetEndMs() < e.GetStartMs() || e.GetNodeLost():
			return at.GetEndMs()
		case at.GetStartMs() > 0:
			end = max(end, at.GetStartMs()+min(e.GetEndMs()-e.GetStartMs(), at.GetEndMs()-at.GetStartMs()))
		default:
			end = max(end, e.GetEndMs())
		}
	}
	if end == 0 {
		return at.GetEndMs()
	}
	return min(max(end, first), at.GetEndMs())
}

// showEnds puts the true ends into a row that shares its attempts with the job table.
func showEnds(p *fettlev1.Job) {
	copied := false
	for i, at := range p.GetAttempts() {
		end := trueEnd(at)
		if at.GetEndMs()-end < lateMS {
			continue
		}
		if i == len(p.Attempts)-1 && p.GetEndMs() == at.GetEndMs() {
			p.EndMs = end
		}
		if !copied {
			p.Attempts, copied = slices.Clone(p.Attempts), true
		}
		p.Attempts[i] = proto.CloneOf(at)
		p.Attempts[i].EndMs = end
	}
}
