package nodemachine

import (
	"path"
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Output files of jobs that name none.
const (
	defaultOutput        = "fettle-%j.out"
	defaultElementOutput = "fettle-%A_%I.out"
)

// OutputNames are what the patterns of an output path stand for, beside the job's name.
type OutputNames struct {
	Key Key
	// ArrayJob is the array's job number and ArrayIndex the element's index; ArrayJob is 0 for a job that is no element.
	ArrayJob   uint64
	ArrayIndex uint32
	User       string
	FirstNode  string
}

// OutputFile fills the patterns of an output path and makes it absolute below the job's working directory:
//
//	%j job         %a attempt      %x name
//	%A array's job %I index in it  (the job itself and 0 where there is no array)
//	%N first node  %u user         %% a percent sign
//
// An empty pattern is the default. The node opens what it gives; the leader, asking for the output of an attempt that the
// node has forgotten, must name the same file. A name is never more than one component of a path.
func OutputFile(pattern string, spec *fettlev1.JobSpec, n OutputNames) string {
	component := strings.NewReplacer("/", "_", "\x00", "_").Replace
	if pattern == "" {
		pattern = defaultOutput
		if n.ArrayJob != 0 {
			pattern = defaultElementOutput
		}
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '%' || i+1 == len(pattern) {
			b.WriteByte(pattern[i])
			continue
		}
		i++
		switch pattern[i] {
		case 'j':
			b.WriteString(strconv.FormatUint(n.Key.Job, 10))
		case 'a':
			b.WriteString(strconv.FormatUint(uint64(n.Key.Attempt), 10))
		case 'A':
			job := n.ArrayJob
			if job == 0 {
				job = n.Key.Job
			}
			b.WriteString(strconv.FormatUint(job, 10))
		case 'I':
			b.WriteString(strconv.FormatUint(uint64(n.ArrayIndex), 10))
		case 'x':
			b.WriteString(component(spec.GetName()))
		case 'N':
			b.WriteString(component(n.FirstNode))
		case 'u':
			b.WriteString(component(n.User))
		case '%':
			b.WriteByte('%')
		default:
			b.WriteByte('%')
			b.WriteByte(pattern[i])
		}
	}
	if out := b.String(); path.IsAbs(out) {
		return path.Clean(out)
	}
	return path.Join(spec.GetWorkDir(), b.String())
}
