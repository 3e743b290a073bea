package trace

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Export is a workload out of a cluster's own history.
type Export struct {
	Jobs []Job
	// LeftOut is how many jobs of the history are not in it: they have not ended, never ran, or had no GPU.
	LeftOut int
}

// History reads what `fqueue --all --json` wrote; see ReadHistory.
func History(path string) (Export, error) {
	f, err := os.Open(path)
	if err != nil {
		return Export{}, err
	}
	defer f.Close()
	return ReadHistory(f, filepath.Base(path))
}

// exported is what is read of a job. The names are those of the commands' JSON.
type exported struct {
	ID         uint64 `json:"id"`
	User       string `json:"user"`
	State      string `json:"state"`
	SubmitMS   int64  `json:"submit_ms"`
	EligibleMS int64  `json:"eligible_ms"`
	EndMS      int64  `json:"end_ms"`
	Attempt    uint32 `json:"attempt"`
	Spec       struct {
		Priority     uint32       `json:"priority"`
		Project      string       `json:"project"`
		TimeLimitS   int64        `json:"time_limit_s"`
		CPUs         int64        `json:"cpus_per_node"`
		MemMiB       int64        `json:"mem_mib_per_node"`
		PerNode      *exportGPUs  `json:"gpus_per_node"`
		Total        *exportGPUs  `json:"gpus_total"`
		Alternatives []exportGPUs `json:"gpu_alternatives"`
	} `json:"spec"`
	Attempts []struct {
		StartMS  int64 `json:"start_ms"`
		EndMS    int64 `json:"end_ms"`
		LostGPUS int64 `json:"lost_gpu_s"`
		Nodes    []struct {
			GPUs     []string `json:"gpu_uuids"`
			GPUMilli int      `json:"gpu_milli"`
		} `json:"nodes"`
	} `json:"attempts"`
}

type exportGPUs struct {
	Type string `json:"type"`
}

// ReadHistory reads a cluster's own history as its commands write it: a document with a list of jobs. A job's duration is
// what its attempts ran, without what was lost; its time of submission is when it could first have started, as far as that is
// known. Jobs that cannot be replayed are left out.
func ReadHistory(r io.Reader, name string) (Export, error) {
	var out Export
	first := int64(0)
	err := eachOf(r, "jobs", func(d *json.Decoder) error {
		var e exported
		if err := d.Decode(&e); err != nil {
			return err
		}
		j, ok := e.job()
		if !ok {
			out.LeftOut++
			return nil
		}
		// Milliseconds until the first is known.
		if len(out.Jobs) == 0 || j.SubmitS < first {
			first = j.SubmitS
		}
		out.Jobs = append(out.Jobs, j)
		return nil
	})
	if err != nil {
		return Export{}, fmt.Errorf("%s: %w", name, err)
	}
	if len(out.Jobs) == 0 {
		return Export{}, fmt.Errorf("%s: no job in it ended after it ran on GPUs; write it with fqueue --all --json", name)
	}
	slices.SortFunc(out.Jobs, func(a, b Job) int { return cmp.Or(cmp.Compare(a.SubmitS, b.SubmitS), cmp.Compare(a.Row, b.Row)) })
	for i := range out.Jobs {
		j := &out.Jobs[i]
		j.SubmitS, j.Row = (j.SubmitS-first)/1000, i
	}
	return out, nil
}

// latestMS bounds times, in the year 8307, so that sums of them fit.
const latestMS = 200_000_000_000_000

// job is the job as a workload has it, but for SubmitS, which is in Unix milliseconds, and Row, which is its number.
func (e *exported) job() (Job, bool) {
	j := Job{
		ID: fmt.Sprint(e.ID), Row: int(e.ID), SubmitS: e.SubmitMS, User: e.User, VC: e.Spec.Project, Priority: e.Spec.Priority,
		Status: strings.ToUpper(e.State), LimitS: max(e.Spec.TimeLimitS, 0),
	}
	if j.Priority < 1 || j.Priority > 10 {
		j.Priority = 5
	}
	if e.Attempt == 1 && e.EligibleMS > e.SubmitMS {
		j.SubmitS = e.EligibleMS
	}
	var ranMS, lostGPUS, nodes int64
	for _, a := range e.Attempts {
		if a.StartMS <= 0 || a.EndMS < a.StartMS || a.EndMS > latestMS {
			continue
		}
		ranMS, lostGPUS = ranMS+a.EndMS-a.StartMS, lostGPUS+max(0, min(a.LostGPUS, latestMS))
		j.GPUs, j.GPUMilli, nodes = 0, 0, int64(len(a.Nodes))
		for _, n := range a.Nodes {
			j.GPUs += len(n.GPUs)
			j.GPUMilli = n.GPUMilli
		}
	}
	if e.EndMS == 0 || ranMS == 0 || j.GPUs == 0 || j.SubmitS < 0 || j.SubmitS > latestMS {
		return Job{}, false
	}
	if j.GPUs != 1 || j.GPUMilli >= 1000 {
		j.GPUMilli = 0
	}
	j.DurationS = max(1, (ranMS+500)/1000-lostGPUS/int64(j.GPUs))
	j.CPUMilli, j.MemMiB = e.Spec.CPUs*1000*nodes, e.Spec.MemMiB*nodes
	for _, g := range append([]*exportGPUs{e.Spec.PerNode, e.Spec.Total}, pointers(e.Spec.Alternatives)...) {
		if g == nil {
			continue
		}
		if g.Type == "" {
			// Any would have done.
			j.Types = nil
			break
		}
		if !slices.Contains(j.Types, g.Type) {
			j.Types = append(j.Types, g.Type)
		}
	}
	return j, true
}

func pointers(list []exportGPUs) []*exportGPUs {
	out := make([]*exportGPUs, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// Inventory reads what `finfo --json` wrote; see ReadInventory.
func Inventory(path string) (Cluster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadInventory(f, filepath.Base(path))
}

// ReadInventory reads a cluster as its commands write it: a document with a list of nodes. A node with GPUs of several types
// becomes one node for each; cards that are cut into slices are not counted, their slices are.
func ReadInventory(r io.Reader, name string) (Cluster, error) {
	var out Cluster
	err := eachOf(r, "nodes", func(d *json.Decoder) error {
		var n struct {
			Name      string `json:"name"`
			Inventory struct {
				CPUs   int64 `json:"cpus"`
				MemMiB int64 `json:"memory_mib"`
				GPUs   []struct {
					UUID   string `json:"uuid"`
					Type   string `json:"type"`
					Parent string `json:"mig_parent"`
				} `json:"gpus"`
			} `json:"inventory"`
		}
		if err := d.Decode(&n); err != nil {
			return err
		}
		cut, count := map[string]bool{}, map[string]int{}
		for _, g := range n.Inventory.GPUs {
			if g.Parent != "" {
				cut[g.Parent] = true
			}
		}
		var types []string
		for _, g := range n.Inventory.GPUs {
			if cut[g.UUID] {
				continue
			}
			if count[g.Type] == 0 {
				types = append(types, g.Type)
			}
			count[g.Type]++
		}
		for _, t := range types {
			node := Node{Name: n.Name, GPUs: count[t], Type: t, CPUMilli: n.Inventory.CPUs * 1000, MemMiB: n.Inventory.MemMiB}
			if len(types) > 1 {
				node.Name += "/" + t
			}
			out = append(out, node)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if out.GPUs() == 0 {
		return nil, fmt.Errorf("%s: no node in it has GPUs; write it with finfo --json", name)
	}
	return out, nil
}

// eachOf calls read at each element of the list under a key of the document.
func eachOf(r io.Reader, key string, read func(*json.Decoder) error) error {
	err := elements(json.NewDecoder(bufio.NewReaderSize(r, 1<<16)), key, read)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is cut off: it has to be a whole document as the commands write it with --json")
	}
	return err
}

func elements(d *json.Decoder, key string, read func(*json.Decoder) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(errors.New("not a JSON document as the commands write it with --json"), err)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if t != key {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return errors.Join(fmt.Errorf("%q is not a list", key), err)
		}
		for d.More() {
			if err := read(d); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	}
	return fmt.Errorf("there is no %q in it", key)
}
