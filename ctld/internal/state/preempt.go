package state

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Preemptible says why a running job may not be ended for any other at nowMS, nil when it may. part is the partition of the
// job: what it allows, and how often and how soon. The planner asks it too, so that it proposes only what the log accepts.
func Preemptible(part *Partition, v *Job, nowMS int64) *model.FieldError {
	refuse := func(format string, args ...any) *model.FieldError {
		return &model.FieldError{Kind: model.Conflict, Field: "victim", Problem: fmt.Sprintf(format, args...)}
	}
	if part == nil {
		return refuse("partition %q of job %d does not exist", v.Spec.GetPartition(), v.ID)
	}
	mode := model.PreemptModeOf(part.Partition)
	switch {
	case mode == fettlev1.PreemptMode_PREEMPT_MODE_OFF:
		return refuse("partition %s leaves its running jobs alone", part.GetName())
	case v.State != model.Running:
		return refuse("job %d is %s", v.ID, model.StateName(v.State))
	case v.CancelRequested || v.RequeueRequested || v.EndReason != 0:
		return refuse("job %d is being ended already", v.ID)
	case v.Spec.GetNoPreemptible() && part.GetAllowNoPreemptible():
		return refuse("job %d asked not to be preempted", v.ID)
	case v.Spec.GetNoRequeue() && mode != fettlev1.PreemptMode_PREEMPT_MODE_CANCEL:
		return refuse("job %d must not be started again", v.ID)
	case nowMS-v.StartMS < model.MinRunMS(part.Partition):
		return refuse("job %d has run for %d s, the least is %d", v.ID, (nowMS-v.StartMS)/1000, model.MinRunMS(part.Partition)/1000)
	case v.PreemptedCount >= model.PreemptBudget(part.Partition) && !bugBudgetIgnored:
		return refuse("job %d was preempted %d times, the most that its partition allows", v.ID, v.PreemptedCount)
	}
	return nil
}

// Outranks reports whether a waiting job is urgent enough to have a job of the partition ended for it, as far as priorities
// say. Whether it goes before it in the scheduling order is the planner's to know.
func Outranks(part *Partition, j, v *Job) bool {
	return int64(v.Spec.GetPriority())-int64(j.Spec.GetPriority()) >= int64(model.PriorityGap(part.Partition)) || model.PriorityGap(part.Partition) == 0
}
