package api

import (
	"strconv"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// JobRef names a job, or one element of an array.
type JobRef struct {
	ID uint64
	// Index is the element of the array ID; nil for the job, or the whole array.
	Index *uint32
}

// String prints "12" or "12_3".
func (r JobRef) String() string {
	if r.Index == nil {
		return strconv.FormatUint(r.ID, 10)
	}
	return gres.FormatElement(r.ID, *r.Index)
}

// NameOf is how people write a job: "12", or "12_3" for an array's element.
func NameOf(j *fettlev1.Job) string {
	if j.GetArrayJobId() != 0 {
		return gres.FormatElement(j.GetArrayJobId(), j.GetArrayIndex())
	}
	return strconv.FormatUint(j.GetId(), 10)
}

// IsArray reports whether a job is an array's own row, which never runs itself.
func IsArray(j *fettlev1.Job) bool { return j.GetSpec().GetArray() != nil && j.GetArrayJobId() == 0 }
