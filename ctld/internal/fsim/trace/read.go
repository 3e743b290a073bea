package trace

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what a file may say. They keep sums of GPU-seconds within 64 bits.
const (
	maxSeconds = int64(1) << 36
	maxGPUs    = 1 << 20
	maxNodes   = 1 << 20
	maxJobs    = 1 << 24
	maxAmount  = int64(1) << 50
)

// RowError is what is wrong with one row of a file.
type RowError struct {
	File string
	// Line counts from 1, the header included.
	Line int
	// Column is the name of the field, empty when the row as a whole is wrong.
	Column string
	Reason string
}

// Error implements error.
func (e *RowError) Error() string {
	if e.Column == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Column, e.Reason)
}

// jobColumns are what a workload may have; the first four it must have.
var jobColumns = []string{
	"job_id", "submit_s", "duration_s", "gpus", "gpu_type", "gpu_milli", "cpu_milli", "mem_mib",
	"user", "vc", "priority", "qos", "status", "limit_s", "pred_s",
}

const neededJobColumns = 4

// nodeColumns are what a cluster may have; the first two it must have.
var nodeColumns = []string{"node", "gpus", "gpu_type", "cpu_milli", "mem_mib"}

const neededNodeColumns = 2

// Jobs reads a workload from a file; see ReadJobs.
func Jobs(path string) ([]Job, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadJobs(f, filepath.Base(path))
}

// ReadJobs reads a workload: CSV with a header, one job a row, empty fields unknown. The jobs come in the order in which
// they arrive. Errors name the file, the line and the column.
func ReadJobs(r io.Reader, name string) ([]Job, error) {
	rows, err := newRows(r, name, jobColumns, neededJobColumns)
	if err != nil {
		return nil, err
	}
	var jobs []Job
	line := map[string]int{}
	types := map[string][]string{"": nil}
	for rows.next() {
		j := Job{
			Row: len(jobs), ID: rows.text("job_id"),
			SubmitS: rows.number("submit_s", 0, maxSeconds, need), DurationS: rows.number("duration_s", 1, maxSeconds, need),
			GPUs: int(rows.number("gpus", 1, maxGPUs, need)), GPUMilli: int(rows.number("gpu_milli", 1, 1000, 0)),
			CPUMilli: rows.number("cpu_milli", 0, maxAmount, 0), MemMiB: rows.number("mem_mib", 0, maxAmount, 0),
			User: rows.text("user"), VC: rows.text("vc"), Status: rows.text("status"), LimitS: rows.number("limit_s", 1, maxSeconds, 0),
			Priority: uint32(11 - rows.number("priority", 1, 10, 6)),
		}
		if j.GPUMilli == 1000 {
			j.GPUMilli = 0
		}
		list := rows.text("gpu_type")
		if _, ok := types[list]; !ok {
			types[list] = strings.Split(list, "|")
			if slices.Contains(types[list], "") {
				rows.fail("gpu_type", fmt.Sprintf("%q has an empty name; write types like T4|V100", list))
			}
		}
		j.Types = types[list]
		switch first, again := line[j.ID]; {
		case j.ID == "":
			rows.fail("job_id", "empty; every job needs a name")
		case again:
			rows.fail("job_id", fmt.Sprintf("%q is the job of line %d too", j.ID, first))
		case j.GPUMilli > 0 && j.GPUs != 1:
			rows.fail("gpu_milli", fmt.Sprintf("a share of a card for a job of %d GPUs; only jobs of one GPU share", j.GPUs))
		case len(jobs) == maxJobs:
			rows.fail("", fmt.Sprintf("more than %d jobs", maxJobs))
		}
		line[j.ID] = rows.line
		jobs = append(jobs, j)
	}
	if rows.err != nil {
		return nil, rows.err
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s: no jobs", name)
	}
	Sort(jobs)
	return jobs, nil
}

// Nodes reads a cluster from a file; see ReadNodes.
func Nodes(path string) (Cluster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadNodes(f, filepath.Base(path))
}

// ReadNodes reads a cluster: CSV with a header, one node a row. Errors name the file, the line and the column.
func ReadNodes(r io.Reader, name string) (Cluster, error) {
	rows, err := newRows(r, name, nodeColumns, neededNodeColumns)
	if err != nil {
		return nil, err
	}
	var nodes Cluster
	line := map[string]int{}
	for rows.next() {
		n := Node{
			Name: rows.text("node"), GPUs: int(rows.number("gpus", 0, 1024, need)), Type: rows.text("gpu_type"),
			CPUMilli: rows.number("cpu_milli", 0, maxAmount, 0), MemMiB: rows.number("mem_mib", 0, maxAmount, 0),
		}
		switch first, again := line[n.Name]; {
		case n.Name == "":
			rows.fail("node", "empty; every node needs a name")
		case again:
			rows.fail("node", fmt.Sprintf("%q is the node of line %d too", n.Name, first))
		case strings.Contains(n.Type, "|"):
			rows.fail("gpu_type", fmt.Sprintf("%q: the GPUs of a node are of one type", n.Type))
		case len(nodes) == maxNodes:
			rows.fail("", fmt.Sprintf("more than %d nodes", maxNodes))
		}
		line[n.Name] = rows.line
		nodes = append(nodes, n)
	}
	if rows.err != nil {
		return nil, rows.err
	}
	if nodes.GPUs() == 0 {
		return nil, fmt.Errorf("%s: no GPUs", name)
	}
	return nodes, nil
}

// need as a number's default refuses an empty field.
const need = -1

// rows goes through a CSV file by column names. The first error ends it.
type rows struct {
	name   string
	csv    *csv.Reader
	at     map[string]int
	fields []string
	line   int
	err    error
}

func newRows(r io.Reader, name string, known []string, needed int) (*rows, error) {
	c := csv.NewReader(bufio.NewReaderSize(r, 1<<16))
	c.ReuseRecord = true
	head, err := c.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: empty; the first line has to name the columns %s", name, strings.Join(known, ","))
	} else if err != nil {
		return nil, csvError(name, err)
	}
	at := map[string]int{}
	for i, column := range head {
		column = strings.TrimSpace(strings.TrimPrefix(column, "\ufeff"))
		if !slices.Contains(known, column) {
			return nil, &RowError{name, 1, column, "unknown column; there are " + strings.Join(known, ",")}
		}
		if _, again := at[column]; again {
			return nil, &RowError{name, 1, column, "named twice"}
		}
		at[column] = i
	}
	for _, column := range known[:needed] {
		if _, ok := at[column]; !ok {
			return nil, &RowError{name, 1, column, "missing; the first line has to name it"}
		}
	}
	return &rows{name: name, csv: c, at: at}, nil
}

func csvError(name string, err error) error {
	var bad *csv.ParseError
	if errors.As(err, &bad) {
		return &RowError{name, bad.Line, "", bad.Err.Error()}
	}
	return fmt.Errorf("%s: %w", name, err)
}

func (r *rows) next() bool {
	if r.err != nil {
		return false
	}
	fields, err := r.csv.Read()
	if errors.Is(err, io.EOF) {
		return false
	} else if err != nil {
		r.err = csvError(r.name, err)
		return false
	}
	r.fields = fields
	r.line, _ = r.csv.FieldPos(0)
	return true
}

func (r *rows) fail(column, reason string) {
	if r.err == nil {
		r.err = &RowError{r.name, r.line, column, reason}
	}
}

func (r *rows) text(column string) string {
	if i, ok := r.at[column]; ok {
		return strings.TrimSpace(r.fields[i])
	}
	return ""
}

// number reads a whole number from low to high; an empty field is empty, unless that is need.
func (r *rows) number(column string, low, high, empty int64) int64 {
	text := r.text(column)
	if text == "" && empty != need {
		return empty
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high {
		r.fail(column, fmt.Sprintf("%q is not a whole number from %d to %d", text, low, high))
		return low
	}
	return n
}
