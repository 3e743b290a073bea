package command

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// waitNews tells those who wait for a job what they have to know of it before it ends: that an attempt came to nothing
// and another one follows, and that the job is held.
type waitNews struct {
	c *call
	// attempt is the newest one whose end was told, held what was said of the hold.
	attempt uint32
	held    string
}

// tell is given the job each time that it changes.
func (n *waitNews) tell(j *fettlev1.Job) {
	if model.Terminal(j.GetState()) {
		return
	}
	for _, a := range j.GetAttempts() {
		if a.GetNumber() > n.attempt && a.GetOutcome() != fettlev1.JobState_JOB_STATE_UNSPECIFIED {
			n.attempt = a.GetNumber()
			n.c.note(failedAttempt(j, a))
		}
	}
	held := ""
	if j.GetHeld() {
		held = heldJob(j)
	}
	if held != "" && held != n.held {
		n.c.note(held)
	}
	n.held = held
}

// failedAttempt says what became of an attempt that is not the last one.
func failedAttempt(j *fettlev1.Job, a *fettlev1.Attempt) string {
	how := "failed"
	switch {
	case a.GetReason() == fettlev1.Reason_REASON_REQUEUED_BY_USER:
		how = "was requeued"
	case a.GetPreemptedBy() != 0:
		how = "made room for job " + strconv.FormatUint(a.GetPreemptedBy(), 10)
	case a.GetReason() == fettlev1.Reason_REASON_PREEMPTED:
		how = "made room for another job"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "job %s: attempt %d %s", api.NameOf(j), a.GetNumber(), how)
	names := make([]string, len(a.GetNodes()))
	for i, p := range a.GetNodes() {
		names[i] = p.GetNode()
	}
	if on := gres.FormatHosts(names); on != "" {
		b.WriteString(" on " + on)
	}
	switch {
	case a.GetDetail() != "":
		b.WriteString(": " + a.GetDetail())
	case how == "failed" && a.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED:
		b.WriteString(": " + model.ReasonText(a.GetReason()))
	}
	if j.GetState() == model.Pending && !j.GetHeld() {
		fmt.Fprintf(&b, "; waiting for attempt %d", a.GetNumber()+1)
	}
	return b.String()
}

// heldJob says that a job is held, why, and how it goes on.
func heldJob(j *fettlev1.Job) string {
	s := fmt.Sprintf("job %s is held", api.NameOf(j))
	if j.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
		s += " (" + model.ReasonText(j.GetReason()) + ")"
	}
	if j.GetDetail() != "" {
		s += ": " + j.GetDetail()
	}
	return s + fmt.Sprintf("; fctl release %s lets it go", api.NameOf(j))
}
