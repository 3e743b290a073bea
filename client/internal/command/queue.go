package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// staleAfter is how old an answer may be before fqueue says so.
const staleAfter = 3 * time.Second

func queueCommand() *command {
	flags := append(selectFlags(),
		&option{name: "jobs", short: "j", arg: "ID,...", repeat: true, help: "these jobs, finished ones too; also as plain arguments", group: "Selection"},
		&option{name: "all", short: "a", help: "finished jobs too", group: "Selection"},
		&option{name: "why", help: "say why the jobs named wait, behind whom, and what would start them now", group: "Output"},
		&option{name: "start", help: "show when waiting jobs are expected to start, and where", group: "Output"},
		&option{name: "format", short: "o", arg: "FORMAT", help: "columns: names such as jobid,st,name:20, or Slurm's \"%i %.2t %j\"", group: "Output"},
		&option{name: "noheader", help: "leave out the line of titles", group: "Output"},
		&option{name: "watch", help: "show the queue again and again until interrupted", group: "Output"},
		&option{name: "interval", arg: "TIME", help: "pause between two shows of --watch (default 2s)", group: "Output"},
	)
	var names []string
	for _, c := range queueColumns {
		n := c.name
		if c.letter != 0 {
			n += " %" + string(c.letter)
		}
		names = append(names, n)
	}
	return &command{
		name:     "fqueue",
		brief:    "show the queue",
		synopsis: "fqueue [flags] [ID...]\nfqueue --why ID...\nfqueue --start [flags] [ID...]",
		text:     queueText + wrapList(names),
		flags:    flags,
		run:      runQueue,
	}
}

const queueText = `Shows the jobs that are not finished: those that hold resources first, then those that wait, by
priority. TIME is how long the current attempt has run; LEFT the time to its end, as training itself
estimates it (marked ~) or as the time limit leaves it. PROGRESS comes from the trainer's log.

An array that has elements left to start is one row: 12_[5-99%4]. Each element gets a row when
it starts: 12_3. As an argument 12 means the array with all of its elements, 12_3 one of them.

--why names what keeps a job from starting, the jobs and limits that it waits behind, and the
smallest changes that would start it now, each of which the scheduler has tried. --start shows
expected starts, with how early and how late each could well be; they come from the scheduler's own
plan, run forward on the expected ends of jobs.

ST is PD pending, DI being dispatched, R running, CG completing, FE fencing (its node was lost, its
resources are held until it is certain that it has ended), S suspended, CD completed, F failed,
CA cancelled, TO timeout, OOM out of memory, NF node failure, PR preempted.

Any controller answers, also one that has lost the others; when the answer may be out of date, a line
on stderr says by how much. On a terminal the table is fitted to its width: long names are cut and
columns of little weight left out. In a pipe or file nothing is cut.


EXAMPLES
fqueue --me --watch
fqueue --why 1042
fqueue --start -p h100
fqueue -t PD -p h100 -o jobid,priority,name,reason,detail
fqueue -o "%.8i %2t %u %R" --noheader 120-140


COLUMNS
The words, and Slurm's letters, that -o takes:
`

// wrapList sets items into lines.
func wrapList(items []string) string {
	var b strings.Builder
	col := 0
	for i, it := range items {
		if i < len(items)-1 {
			it += ","
		}
		if col > 0 && col+1+len(it) > 92 {
			b.WriteByte('\n')
			col = 0
		}
		if col > 0 {
			b.WriteByte(' ')
			col++
		}
		b.WriteString(it)
		col += len(it)
	}
	return b.String()
}

func runQueue(ctx context.Context, c *call) error {
	sel, _, err := c.selector()
	if err != nil {
		return err
	}
	words := c.args
	for _, g := range c.all("jobs") {
		words = append(words, g.value)
	}
	list, err := jobs(words)
	if err != nil {
		return err
	}
	pick(sel, list)
	if err := c.queueModes(words); err != nil {
		return err
	}
	req := &fettlev1.ListJobsRequest{Select: sel}
	req.IncludeFinished = c.on("all") || named(sel) || slices.ContainsFunc(sel.States, model.Terminal)
	cols, rcols, err := c.queueFormat()
	if err != nil {
		return err
	}
	every, err := c.interval()
	if err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	switch {
	case c.on("why"):
		return c.why(ctx, cl)
	case c.on("start"):
		return c.starts(ctx, cl, req, cols, rcols)
	}
	q := &queueLister{c: c, cl: cl, req: req, cols: cols, rcols: rcols}
	if c.on("watch") {
		return q.watch(ctx, every)
	}
	if c.on("json") {
		return q.json(ctx, "\n")
	}
	table, order, header, err := q.table(ctx, c.env.Out)
	if err != nil {
		return err
	}
	if err := table.WriteOrder(c.env.Stdout, c.env.Out, order); err != nil {
		return err
	}
	if s := staleNote(header); s != "" {
		c.note("note: " + s)
	}
	if q.rows == 0 {
		c.noteUnknown(sel.GetUsers())
	}
	return q.missing()
}

// noteUnknown says which of the users that have no jobs are not known here at all: most are typing errors.
func (c *call) noteUnknown(names []string) {
	for _, name := range names {
		var unknown user.UnknownUserError
		if _, err := user.Lookup(name); errors.As(err, &unknown) {
			c.note("note: no user " + render.Quote(name) + " is known on this machine, and none of that name has such jobs")
		}
	}
}

func jobWord(n int) string {
	if n == 1 {
		return "job"
	}
	return "jobs"
}

func (c *call) queueFormat() ([]queueColumn, []render.Column, error) {
	if g, ok := c.get("format"); ok {
		return parseFormat(g)
	}
	var cols []queueColumn
	var rcols []render.Column
	names := defaultColumns
	if c.on("start") {
		names = startColumns
	}
	for _, name := range names {
		i := slices.IndexFunc(queueColumns, func(q queueColumn) bool { return q.name == name })
		cols, rcols = append(cols, queueColumns[i]), append(rcols, queueColumns[i].column())
	}
	return cols, rcols, nil
}

func (c *call) interval() (time.Duration, error) {
	g, ok := c.get("interval")
	if !ok {
		return 2 * time.Second, nil
	}
	const remedy = "use for example 5s"
	if !c.on("watch") {
		return 0, g.bad("goes with --watch only", "add --watch")
	}
	v := g.value
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		v += "s"
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 100*time.Millisecond || d > time.Hour {
		return 0, g.bad("is not a time from 100ms to 1h", remedy)
	}
	return d, nil
}

// staleNote says that an answer may be out of date; "" when it is fresh enough.
func staleNote(h *fettlev1.Header) string {
	if h == nil || h.GetIsLeader() {
		return ""
	}
	age := time.Duration(h.GetAgeMs()) * time.Millisecond
	from := h.GetServerName()
	if from == "" {
		from = "the controller"
	}
	switch {
	case h.GetAgeMs() < 0:
		return from + " has no contact with a leader; what it knows may be out of date"
	case age > staleAfter:
		return from + " last heard from the leader " + render.Ago(age) + " ago; this is the queue as it was then"
	case h.GetLeaderName() == "" && h.GetLeaderAddr() == "":
		return from + " knows of no leader; jobs cannot be submitted or started until there is one"
	}
	return ""
}

// queueLister fetches and lays out the queue.
type queueLister struct {
	c     *call
	cl    *api.Client
	req   *fettlev1.ListJobsRequest
	cols  []queueColumn
	rcols []render.Column

	seen    map[jobKey]bool
	rows    int
	running uint64
	pending uint64
}

// key is what rows are ordered by: jobs that hold resources, jobs that wait, finished jobs; then priority; then number, an
// array's elements after their array by index.
type key struct {
	row   int32
	group uint8
	pri   uint8
	id    uint64
	// element is 0 for a job, else the index in the array plus 1.
	element uint64
}

func group(s fettlev1.JobState) uint8 {
	switch {
	case s == model.Pending:
		return 1
	case model.Terminal(s):
		return 2
	}
	return 0
}

// table fetches the jobs; order is the order in which to show its rows.
func (q *queueLister) table(ctx context.Context, term render.Terminal) (*render.Table, []int32, *fettlev1.Header, error) {
	t := render.NewTable(q.rcols...)
	t.NoHeader = q.c.on("noheader")
	v := &queueView{now: q.c.env.Now(), term: term}
	q.cl.PreferLeader(ctx)
	var keys []key
	q.running, q.pending, q.seen = 0, 0, nil
	sorted := true
	header, err := q.cl.ScanJobs(ctx, q.req, func(j *fettlev1.Job) error {
		k := key{row: int32(len(keys)), group: group(j.GetState()), id: j.GetId()}
		if array := j.GetArrayJobId(); array != 0 {
			k.id, k.element = array, uint64(j.GetArrayIndex())+1
		}
		switch k.group {
		case 0:
			q.running++
		case 1:
			q.pending++
			k.pri = uint8(min(j.GetSpec().GetPriority(), 255))
		}
		if n := len(keys); n > 0 && sorted && compareKeys(keys[n-1], k) > 0 {
			sorted = false
		}
		keys = append(keys, k)
		for i := range q.cols {
			q.cols[i].cell(v, t, j)
		}
		q.note(j)
		return nil
	})
	if err != nil {
		return nil, nil, nil, err
	}
	q.rows = len(keys)
	if sorted {
		return t, nil, header, nil
	}
	slices.SortFunc(keys, compareKeys)
	order := make([]int32, len(keys))
	for i, k := range keys {
		order[i] = k.row
	}
	return t, order, header, nil
}

func compareKeys(a, b key) int {
	switch {
	case a.group != b.group:
		return int(a.group) - int(b.group)
	case a.pri != b.pri:
		return int(a.pri) - int(b.pri)
	}
	return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.element, b.element))
}

// json writes the answer as one document; sep stands between the jobs.
func (q *queueLister) json(ctx context.Context, sep string) error {
	q.cl.PreferLeader(ctx)
	w := bufio.NewWriterSize(q.c.env.Stdout, 256<<10)
	var buf []byte
	started := false
	begin := func(h *fettlev1.Header) {
		buf = append(buf[:0], `{"header":`...)
		buf = render.AppendMessage(buf, h)
		buf = append(buf, `,"jobs":[`...)
		_, _ = w.Write(buf)
		started = true
	}
	first := true
	err := q.cl.ListJobs(ctx, q.req, func(h *fettlev1.Header, jobs []*fettlev1.Job) error {
		if !started {
			begin(h)
		}
		for _, j := range jobs {
			buf = buf[:0]
			if !first {
				buf = append(buf, ',')
			}
			buf = render.AppendMessage(append(buf, sep...), j)
			if _, err := w.Write(buf); err != nil {
				return err
			}
			first = false
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !started {
		begin(nil)
	}
	if !first {
		_, _ = w.WriteString(sep)
	}
	_, _ = w.WriteString("]}\n")
	return w.Flush()
}

// watch shows the queue again and again until ctx ends.
func (q *queueLister) watch(ctx context.Context, every time.Duration) error {
	q.c.stay()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := q.once(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// once shows the queue once, over the last show on a terminal.
func (q *queueLister) once(ctx context.Context) error {
	if q.c.on("json") {
		return q.json(ctx, "")
	}
	term := q.c.env.Out
	if f, ok := q.c.env.Stdout.(*os.File); ok && term.TTY {
		term = render.DetectTerminal(f, q.c.env.Getenv)
	}
	t, order, header, err := q.table(ctx, term)
	w := bufio.NewWriterSize(q.c.env.Stdout, 64<<10)
	title := "fqueue  " + q.c.env.Now().Format("15:04:05")
	if term.TTY {
		_, _ = w.WriteString("\x1b[H\x1b[2J")
	}
	if err != nil {
		if ctx.Err() != nil || !term.TTY || !api.IsCode(err, unavailable) {
			return err
		}
		_, _ = w.WriteString(title + "\n" + term.Paint(render.Red, render.Line(err.Error())) + "\n")
		return w.Flush()
	}
	title += "  " + render.Count(q.running) + " active, " + render.Count(q.pending) + " waiting"
	_, _ = w.WriteString(term.Paint(render.Bold, title) + "\n")
	if s := staleNote(header); s != "" {
		_, _ = w.WriteString(term.Paint(render.Yellow, "note: "+render.Line(s)) + "\n")
	}
	if order == nil {
		order = make([]int32, t.Rows())
		for i := range order {
			order[i] = int32(i)
		}
	}
	more := 0
	if room := term.Height - 5; term.Height > 0 && room > 0 && len(order) > room {
		more = len(order) - room
		order = order[:room]
	}
	if err := t.WriteOrder(w, term, order); err != nil {
		return err
	}
	if more > 0 {
		_, _ = fmt.Fprintf(w, "... and %s more\n", render.Count(uint64(more)))
	}
	if !term.TTY {
		_, _ = io.WriteString(w, "\n")
	}
	return w.Flush()
}
