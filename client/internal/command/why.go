package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// queueModes refuses flags of fqueue that do not go together. words are the jobs named.
func (c *call) queueModes(words []string) error {
	without := func(mode string, others ...string) error {
		for _, o := range others {
			if g, ok := c.get(o); ok && c.on(mode) {
				return usagef(g.written+": does not go with --"+mode, "leave one of them out")
			}
		}
		return nil
	}
	if err := without("why", "start", "watch", "format", "all", "noheader", "user", "me", "states", "name", "partition", "project", "nodelist"); err != nil {
		return err
	}
	if err := without("start", "watch", "all"); err != nil {
		return err
	}
	if c.on("why") && len(words) == 0 {
		return usagef("--why: no jobs named", "give job numbers such as 12 or 12_3")
	}
	return nil
}

// explain asks about one job.
func explainJob(ctx context.Context, cl *api.Client, req *fettlev1.ExplainJobRequest) (*fettlev1.ExplainJobResponse, error) {
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.ExplainJobResponse, error) {
		return s.ExplainJob(ctx, req)
	})
}

// eachExplained asks about the jobs one by one and shows each answer; those that there are not are errors at the end.
func (c *call) eachExplained(ctx context.Context, cl *api.Client, list gres.Jobs, ask *fettlev1.ExplainJobRequest, write func(io.Writer, *fettlev1.ExplainJobResponse) error) error {
	cl.PreferLeader(ctx)
	w := bufio.NewWriter(c.env.Stdout)
	var failed several
	shown := 0
	for _, ref := range refs(list) {
		ask.JobId, ask.ArrayIndex = ref.ID, ref.Index
		r, err := explainJob(ctx, cl, ask)
		switch {
		case api.IsCode(err, codes.NotFound):
			failed = append(failed, aboutJob(ref.String(), err))
			continue
		case err != nil:
			return err
		case c.on("json"):
			_, err = w.Write(append(render.AppendMessage(nil, r), '\n'))
		default:
			if shown > 0 {
				fmt.Fprintln(w)
			}
			err = write(w, r)
		}
		if err != nil {
			return err
		}
		shown++
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// why says why the jobs named wait.
func (c *call) why(ctx context.Context, cl *api.Client) error {
	words := c.args
	for _, g := range c.all("jobs") {
		words = append(words, g.value)
	}
	list, err := jobs(words)
	if err != nil {
		return err
	}
	return c.eachExplained(ctx, cl, list, &fettlev1.ExplainJobRequest{Why: true, Start: true}, c.writeWhy)
}

func (c *call) writeWhy(w io.Writer, r *fettlev1.ExplainJobResponse) error {
	j, why := r.GetJob(), r.GetWhy()
	if why == nil {
		_, err := fmt.Fprintln(w, c.env.Out.Paint(render.Bold, render.Line(jobSummary(j))))
		return err
	}
	title := "Job " + api.NameOf(j)
	if n := j.GetSpec().GetName(); n != "" {
		title += " (" + n + ")"
	}
	if why.GetReason() == fettlev1.Reason_REASON_UNSPECIFIED {
		title += " starts with the next plan"
	} else {
		title += " waits: " + model.ReasonText(why.GetReason())
	}
	fmt.Fprintln(w, c.env.Out.Paint(render.Bold, render.Line(title)))
	fs := []field{{"Why", whySentence(why)}}
	for _, l := range why.GetLimits() {
		fs = append(fs, field{"Limit", limitText(l)})
	}
	writeFields(w, append(fs, field{"Place", placeText(j, why)}, field{"Expected start", c.startText(r.GetStart())}))
	if n := len(why.GetBehind()); n > 0 {
		fmt.Fprint(w, "Waits behind")
		if more := int(why.GetBehindCount()) - n; more > 0 {
			fmt.Fprintf(w, " %s jobs, among them", render.Count(uint64(why.GetBehindCount())))
		}
		fmt.Fprintln(w, ":")
		if err := c.aheadTable(why.GetBehind()).Write(w, c.env.Out); err != nil {
			return err
		}
	}
	if len(why.GetChanges()) > 0 {
		fmt.Fprintln(w, "Would start now:")
	}
	for _, ch := range why.GetChanges() {
		fmt.Fprintln(w, "  "+render.Line(changeText(ch)))
	}
	return nil
}

// whySentence is the detail of why a job waits, or what its reason means where there is no more to say.
func whySentence(why *fettlev1.JobWhy) string {
	d := why.GetDetail()
	switch r := why.GetReason(); {
	case r == fettlev1.Reason_REASON_DEPENDENCY && d != "":
		return "waits for " + d
	case d != "":
		return d
	default:
		return reasonSentences[r]
	}
}

var reasonSentences = map[fettlev1.Reason]string{
	fettlev1.Reason_REASON_PRIORITY:           "jobs ahead of it in the order come first",
	fettlev1.Reason_REASON_RESOURCES:          "it is first in line and waits for what it needs to be free",
	fettlev1.Reason_REASON_HELD_BY_USER:       "it is held; fctl release lets it go",
	fettlev1.Reason_REASON_HELD_BY_ADMIN:      "an admin holds it",
	fettlev1.Reason_REASON_BEGIN_TIME:         "its begin time has not come",
	fettlev1.Reason_REASON_BACKOFF:            "its next try waits a while after the last failure",
	fettlev1.Reason_REASON_NODES_UNAVAILABLE:  "nodes that it needs are down, drained or unreachable",
	fettlev1.Reason_REASON_NO_SUITABLE_NODE:   "no node could hold it even if idle",
	fettlev1.Reason_REASON_PARTITION_DOWN:     "its partition is down",
	fettlev1.Reason_REASON_RESERVATION:        "a reservation keeps what it needs, now or before it could be over",
	fettlev1.Reason_REASON_LIMIT_PARTITION:    "a limit of its partition is reached",
	fettlev1.Reason_REASON_LIMIT_PROJECT:      "a limit of its project, or of one above it, is reached",
	fettlev1.Reason_REASON_LIMIT_USER:         "a limit of its user is reached",
	fettlev1.Reason_REASON_ARRAY_LIMIT:        "as many elements of its array run as may at a time",
	fettlev1.Reason_REASON_PREEMPTING:         "other jobs are being ended to make room for it",
	fettlev1.Reason_REASON_GPUS_BUSY_OUTSIDE:  "GPUs that would do are in use by processes that are no job's",
	fettlev1.Reason_REASON_DEPENDENCY:         "jobs that it depends on have not come so far",
	fettlev1.Reason_REASON_LAUNCH_FAILED:      "its last launch failed through no fault of its own, and it is tried again",
	fettlev1.Reason_REASON_LAUNCH_FAILED_HELD: "it is held after too many failed launches in a row; fctl release lets it go",
}

// placeText is a job's place in the order: "3 of those that wait, 2 in partition h100, 1 in project nlp".
func placeText(j *fettlev1.Job, why *fettlev1.JobWhy) string {
	if why.GetPosition() == 0 {
		return ""
	}
	s := "number " + strconv.FormatUint(uint64(why.GetPosition()), 10) + " of all that wait"
	if p := why.GetPartitionPosition(); p > 0 && j.GetSpec().GetPartition() != "" {
		s += ", " + strconv.FormatUint(uint64(p), 10) + " in partition " + j.GetSpec().GetPartition()
	}
	if p := why.GetProjectPosition(); p > 0 && j.GetSpec().GetProject() != "" {
		s += ", " + strconv.FormatUint(uint64(p), 10) + " in project " + j.GetSpec().GetProject()
	}
	return s
}

var scopeWords = map[fettlev1.ScopeKind]string{fettlev1.ScopeKind_SCOPE_KIND_PARTITION: "partition", fettlev1.ScopeKind_SCOPE_KIND_PROJECT: "project", fettlev1.ScopeKind_SCOPE_KIND_USER: "user"}

// limitText is a limit in the way: "project nlp: max_gpus 8, 6 in use, 4 asked for".
func limitText(l *fettlev1.LimitInWay) string {
	s := cmp.Or(scopeWords[l.GetKind()], "limit") + " " + l.GetScope() + ": " + l.GetLimit() + " " + strconv.FormatInt(l.GetMax(), 10) +
		", " + strconv.FormatInt(l.GetUsed(), 10) + " in use"
	if l.GetAsked() > 0 {
		s += ", " + strconv.FormatInt(l.GetAsked(), 10) + " asked for"
	}
	return s
}

// changeText is a change that would start a job now, with the options that make it.
func changeText(ch *fettlev1.JobChange) string {
	var opts []string
	for _, kv := range ch.GetOptions() {
		switch {
		case kv.GetValue() != "":
			opts = append(opts, "--"+kv.GetKey()+" "+kv.GetValue())
		case kv.GetKey() == "nodelist" || kv.GetKey() == "exclude" || kv.GetKey() == "constraint" || kv.GetKey() == "device":
			opts = append(opts, "no --"+kv.GetKey())
		default:
			opts = append(opts, "--"+kv.GetKey())
		}
	}
	s := ch.GetText()
	if o := strings.Join(opts, " "); o != "" {
		s = strings.TrimSpace(s + " (" + o + ")")
	}
	switch v := ch.GetVictims(); {
	case len(v) > 0:
		s += ", ending " + jobWord(len(v)) + " " + gres.FormatJobIDs(v) + ", " + gpuTime(ch.GetLostGpuS()) + " lost"
	case ch.GetPreempts():
		s += ", at the cost of jobs that would be ended for it"
	}
	return s
}

func (c *call) aheadTable(list []*fettlev1.JobAhead) *render.Table {
	t := render.NewTable(render.Column{Title: "  JOBID", Right: true}, render.Column{Title: "ST"}, render.Column{Title: "PRI", Right: true}, render.Column{Title: "NAME", Shrink: 10},
		render.Column{Title: "USER", Shrink: 6, Drop: 1}, render.Column{Title: "GPUS", Right: true}, render.Column{Title: "EXPECTED"})
	for _, a := range list {
		name := strconv.FormatUint(a.GetJobId(), 10)
		if a.GetArrayJobId() != 0 {
			name = gres.FormatElement(a.GetArrayJobId(), a.GetArrayIndex())
		}
		t.Text(name)
		t.Styled(stateStyle(a.GetState()), model.Code(a.GetState()))
		num(t, uint64(a.GetPriority()))
		t.Text(a.GetName())
		t.Text(a.GetUser())
		num(t, uint64(a.GetGpus()))
		switch {
		case a.GetExpectedMs() == 0:
			t.Text("-")
		case a.GetState() == model.Pending:
			t.Text("starts " + render.Time(a.GetExpectedMs()))
		default:
			t.Text("ends " + render.Time(a.GetExpectedMs()))
		}
	}
	return t
}

// startText is a predicted start with its uncertainty and its place; empty when there is none.
func (c *call) startText(p *fettlev1.StartPrediction) string {
	if p == nil {
		return ""
	}
	s := whenText(p.GetStartMs(), c.env.Now())
	if r := rangeText(p); r != "" {
		s += " (" + r + ")"
	}
	if on := predictedNodes(p); on != "" {
		s += " on " + on
	}
	if p.GetBasis() != "" {
		s += "; " + p.GetBasis()
	}
	return s
}

// whenText is a moment to come: "now" when it is not after now.
func whenText(ms int64, now time.Time) string {
	switch {
	case ms == 0:
		return "not foreseeable"
	case ms <= now.UnixMilli():
		return "now"
	}
	return render.Time(ms)
}

// rangeText is between when and when a job is expected to start.
func rangeText(p *fettlev1.StartPrediction) string {
	switch {
	case p.GetLowMs() == 0 || p.GetLowMs() == p.GetHighMs():
		return ""
	case p.GetHighMs() == 0:
		return render.Time(p.GetLowMs()) + " or later"
	}
	return render.Time(p.GetLowMs()) + " to " + render.Time(p.GetHighMs())
}

func predictedNodes(p *fettlev1.StartPrediction) string {
	nodes := make([]string, len(p.GetNodes()))
	for i, n := range p.GetNodes() {
		nodes[i] = n.GetNode()
	}
	return gres.FormatHosts(nodes)
}

// startColumns are shown with --start and without -o.
var startColumns = []string{"jobid", "priority", "name", "user", "gpus", "nodes", "expected", "between", "expected-nodes", "reason"}

// startRow is what rows of --start are ordered by.
type startRow struct {
	row int32
	at  int64
	id  uint64
}

// starts shows the waiting jobs by their expected start.
func (c *call) starts(ctx context.Context, cl *api.Client, list *fettlev1.ListJobsRequest, cols []queueColumn, rcols []render.Column) error {
	cl.PreferLeader(ctx)
	r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.PredictStartsResponse, error) {
		return s.PredictStarts(ctx, &fettlev1.PredictStartsRequest{Select: list.GetSelect()})
	})
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	v := &queueView{now: c.env.Now(), term: c.env.Out, starts: make(map[uint64]*fettlev1.StartPrediction, len(r.GetStarts()))}
	for _, p := range r.GetStarts() {
		v.starts[p.GetJobId()] = p
	}
	t := render.NewTable(rcols...)
	t.NoHeader = c.on("noheader")
	var rows []startRow
	q := &queueLister{req: list}
	header, err := cl.ScanJobs(ctx, list, func(j *fettlev1.Job) error {
		q.note(j)
		if j.GetState() != model.Pending || api.IsArray(j) && len(j.GetArrayLeft().GetRanges()) == 0 {
			return nil
		}
		at := v.starts[j.GetId()].GetStartMs()
		if at == 0 {
			at = 1<<63 - 1
		}
		rows = append(rows, startRow{int32(len(rows)), at, j.GetId()})
		for i := range cols {
			cols[i].cell(v, t, j)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(rows, func(a, b startRow) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
	order := make([]int32, len(rows))
	for i, row := range rows {
		order[i] = row.row
	}
	if err := t.WriteOrder(c.env.Stdout, c.env.Out, order); err != nil {
		return err
	}
	if s := staleNote(header); s != "" {
		c.note("note: " + s)
	}
	return q.missing()
}
