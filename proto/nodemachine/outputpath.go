package nodemachine

import (
	"path"
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// OutputPath fills the patterns of an output path (%j job, %a attempt, %x name, %N first node, %u user, %% itself) and
// makes it absolute below the job's working directory. The node opens what it gives; the leader, asking for the output of
// an attempt that the node has forgotten, must name the same file. A name is never more than one component of a path.
func OutputPath(pattern string, spec *fettlev1.JobSpec, k Key, user, firstNode string) string {
	component := strings.NewReplacer("/", "_", "\x00", "_").Replace
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '%' || i+1 == len(pattern) {
			b.WriteByte(pattern[i])
			continue
		}
		i++
		switch pattern[i] {
		case 'j':
			b.WriteString(strconv.FormatUint(k.Job, 10))
		case 'a':
			b.WriteString(strconv.FormatUint(uint64(k.Attempt), 10))
		case 'x':
			b.WriteString(component(spec.GetName()))
		case 'N':
			b.WriteString(component(firstNode))
		case 'u':
			b.WriteString(component(user))
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
