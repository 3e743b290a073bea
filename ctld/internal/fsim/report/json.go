package report

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
)

// JSON writes a report for machines. Fields are only ever added.
func JSON(w io.Writer, rep *fsim.Report) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetIndent("", " ")
	if err := e.Encode(rep); err != nil {
		return err
	}
	return b.Flush()
}

// Schedule writes what became of each job as CSV, in the order in which they arrived. Dropped jobs have no start and no end.
func Schedule(w io.Writer, s *metrics.Schedule) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"job_id", "submit_s", "start_s", "end_s", "gpus", "wait_s", "preempted", "lost_gpu_s"}); err != nil {
		return err
	}
	text := func(n int64) string { return strconv.FormatInt(n, 10) }
	for i := range s.Outcomes {
		o := &s.Outcomes[i]
		row := []string{o.ID, text(o.SubmitS), "", "", strconv.Itoa(o.GPUs), "", strconv.Itoa(o.Preempted), text(o.LostGPUS)}
		if !o.Dropped {
			row[2], row[3], row[5] = text(o.StartS), text(o.EndS), text(o.WaitS())
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}
