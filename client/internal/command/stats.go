package command

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// trainPoint is one line of the trainer's log; values that it did not hold are not numbers.
type trainPoint struct {
	epoch, loss, learningRate, gradNorm, evalLoss float64
}

// maxPoints bounds the points kept of one log; beyond it every second one is dropped.
const maxPoints = 65536

// stats shows how far a job's training has come.
func (c *call) stats(ctx context.Context, cl *api.Client, r api.LogReader) error {
	sc := &statScanner{}
	job, err := cl.ReadLog(ctx, r, sc.chunk)
	if err != nil {
		return err
	}
	sc.flush()
	if job, err = c.withProgress(ctx, cl, job); err != nil {
		return err
	}
	if c.on("json") {
		return c.statsJSON(job, sc.points)
	}
	w := bufio.NewWriter(c.env.Stdout)
	writeStats(w, c.env.Out, job, sc.points, c.env.Now().UnixMilli())
	return w.Flush()
}

// withProgress is the job as the leader has it, with its newest progress.
func (c *call) withProgress(ctx context.Context, cl *api.Client, job *fettlev1.Job) (*fettlev1.Job, error) {
	cl.PreferLeader(ctx)
	r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetJobResponse, error) {
		return s.GetJob(ctx, &fettlev1.GetJobRequest{JobId: job.GetId()})
	})
	if err != nil {
		return nil, err
	}
	return r.GetJob(), nil
}

func (c *call) statsJSON(job *fettlev1.Job, points []trainPoint) error {
	b := render.AppendMessage([]byte(`{"job":`), job)
	b = append(b, `,"points":[`...)
	for i, p := range points {
		if i > 0 {
			b = append(b, ',')
		}
		b = render.AppendFloat(append(b, `{"epoch":`...), p.epoch)
		b = render.AppendFloat(append(b, `,"loss":`...), p.loss)
		b = render.AppendFloat(append(b, `,"learning_rate":`...), p.learningRate)
		b = render.AppendFloat(append(b, `,"grad_norm":`...), p.gradNorm)
		b = render.AppendFloat(append(b, `,"eval_loss":`...), p.evalLoss)
		b = append(b, '}')
	}
	_, err := c.env.Stdout.Write(append(b, "]}\n"...))
	return err
}

// writeStats prints the figures and the curve.
func writeStats(w io.Writer, term render.Terminal, job *fettlev1.Job, points []trainPoint, nowMS int64) {
	fmt.Fprintln(w, render.Line(jobSummary(job)))
	width := term.Width
	if width == 0 {
		width = 80
	}
	width = min(width, 120)
	if p := job.GetProgress(); p.GetTotalSteps() > 0 {
		share := float64(p.GetStep()) / float64(p.GetTotalSteps())
		line := fmt.Sprintf("%s %3d%%  step %d of %d", render.Bar(share, 24, term.UTF8), int(min(share, 1)*100), p.GetStep(), p.GetTotalSteps())
		if p.Epoch != nil {
			line += ", epoch " + render.Number(p.GetEpoch())
		}
		if !model.Terminal(job.GetState()) && p.GetRemainingS() >= 0 {
			line += ", " + render.Span(p.GetRemainingS()) + " left"
		}
		if age := nowMS - p.GetUpdatedMs(); p.GetUpdatedMs() > 0 && age > 60_000 && !model.Terminal(job.GetState()) {
			line += " (reported " + render.Span(age/1000) + " ago)"
		}
		fmt.Fprintln(w, line)
	}
	var curve []render.Point
	var losses, evals []float64
	rate := math.NaN()
	for _, p := range points {
		if !math.IsNaN(p.loss) {
			x := p.epoch
			if math.IsNaN(x) {
				x = float64(len(losses))
			}
			curve = append(curve, render.Point{X: x, Y: p.loss})
			losses = append(losses, p.loss)
			if !math.IsNaN(p.learningRate) {
				rate = p.learningRate
			}
		}
		if !math.IsNaN(p.evalLoss) {
			evals = append(evals, p.evalLoss)
		}
	}
	if len(losses) == 0 {
		if l := job.GetProgress(); l != nil && l.Loss != nil {
			fmt.Fprintf(w, "loss %s\n", render.Number(l.GetLoss()))
		}
		fmt.Fprintln(w, "The output holds no lines with a loss yet.")
		return
	}
	lowest := losses[0]
	for _, l := range losses {
		lowest = min(lowest, l)
	}
	fmt.Fprintf(w, "loss %s, from %s, lowest %s, over %s", render.Number(losses[len(losses)-1]), render.Number(losses[0]),
		render.Number(lowest), render.Plural(uint64(len(losses)), "report"))
	if !math.IsNaN(rate) {
		fmt.Fprintf(w, "; learning rate %s", render.Number(rate))
	}
	if len(evals) > 0 {
		fmt.Fprintf(w, "; evaluation loss %s", render.Number(evals[len(evals)-1]))
	}
	fmt.Fprintln(w)
	for _, line := range render.Curve(curve, width, 12, term.UTF8, "epoch") {
		fmt.Fprintln(w, line)
	}
}

// statScanner finds the trainer's reports in a log that comes in pieces.
type statScanner struct {
	line    []byte
	long    bool
	attempt uint32
	points  []trainPoint
}

// maxStatLine is the longest line that is looked at.
const maxStatLine = 64 << 10

func (s *statScanner) chunk(ch api.LogChunk) error {
	if ch.Attempt != s.attempt {
		s.flush()
		s.attempt = ch.Attempt
	}
	data := ch.Data
	for len(data) > 0 {
		// Progress bars end their lines with a carriage return.
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			s.hold(data)
			return nil
		}
		s.hold(data[:i])
		s.flush()
		data = data[i+1:]
	}
	return nil
}

func (s *statScanner) hold(b []byte) {
	if s.long || len(s.line)+len(b) > maxStatLine {
		s.long = true
		return
	}
	s.line = append(s.line, b...)
}

// flush looks at the line that is complete now.
func (s *statScanner) flush() {
	line, long := s.line, s.long
	s.line, s.long = s.line[:0], false
	if long || !bytes.Contains(line, []byte("loss'")) {
		return
	}
	p, ok := parseReport(line)
	if !ok {
		return
	}
	// After a resume the trainer repeats what came after its checkpoint: the later report counts.
	if !math.IsNaN(p.epoch) && !math.IsNaN(p.loss) {
		for n := len(s.points); n > 0 && (s.points[n-1].epoch > p.epoch || s.points[n-1].epoch == p.epoch && !math.IsNaN(s.points[n-1].loss)); n = len(s.points) {
			s.points = s.points[:n-1]
		}
	}
	s.points = append(s.points, p)
	if len(s.points) > maxPoints {
		half := s.points[:0]
		for i := 0; i < len(s.points); i += 2 {
			half = append(half, s.points[i])
		}
		s.points = half
	}
}

// parseReport reads the last {...} of a line as the trainer prints it: {'loss': 1.25, 'epoch': '0.1'}.
func parseReport(line []byte) (trainPoint, bool) {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 {
		return trainPoint{}, false
	}
	end := bytes.IndexByte(line[open:], '}')
	if end < 0 {
		return trainPoint{}, false
	}
	nan := math.NaN()
	p := trainPoint{nan, nan, nan, nan, nan}
	found := false
	for item := range strings.SplitSeq(string(line[open+1:open+end]), ",") {
		k, v, ok := strings.Cut(item, ":")
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.Trim(strings.TrimSpace(v), `'"`), 64)
		if err != nil {
			continue
		}
		switch strings.Trim(strings.TrimSpace(k), `'"`) {
		case "loss":
			p.loss, found = n, true
		case "eval_loss":
			p.evalLoss, found = n, true
		case "epoch":
			p.epoch = n
		case "learning_rate":
			p.learningRate = n
		case "grad_norm":
			p.gradNorm = n
		}
	}
	return p, found
}
