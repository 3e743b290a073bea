package state

// Request remembers the answer to a write, so that its repeat gets the same. Immutable.
type Request struct {
	UID uint32
	ID  string
	// Seq orders requests by age; the oldest are forgotten first.
	Seq, Index uint64
	// Hash is the SHA-256 of what was asked, zero when the contents may differ between repeats.
	Hash [32]byte
	// JobID is set for the submit of a job that has been purged since.
	JobID uint64
	// Result is a marshalled raftlogv1.RequestResult, empty for submits.
	Result []byte
	// Weight is what the request counts against model.MaxRememberedWeight. It does not depend on how refusals are worded.
	Weight uint32

	sum sum
}
