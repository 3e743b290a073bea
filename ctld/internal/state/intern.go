package state

import (
	"encoding/binary"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// interner makes equal strings, lists and payloads share memory. It forgets everything when it is full, so it stays
// bounded and costs no bookkeeping; what rows share already stays shared.
type interner struct {
	strings map[string]string
	blobs   map[string][]byte
	env     map[string][]*fettlev1.KeyValue
	specs   map[specKey]*fettlev1.JobSpec
	gpus    map[gpuKey]*fettlev1.GPURequest
	held    int
	key     []byte
}

type gpuKey struct {
	kind  string
	count uint32
}

// specKey is what makes two stored specifications equal: what was asked for, and what the policy filled in.
type specKey struct {
	submit [32]byte
	policy *policy
	// What the policy filled in for this user.
	project    string
	timeLimitS int64
	// estimateS is what the controller filled in that is not in the hash either.
	estimateS int64
}

const (
	// maxInterned bounds what the interner itself keeps alive, in bytes of content.
	maxInterned = 4 << 20
	// maxInternedString is the longest string worth sharing.
	maxInternedString = 256
	maxInternedBlob   = 16 << 10
	maxInternedSpecs  = 256
)

func newInterner() *interner {
	in := &interner{}
	in.reset()
	return in
}

func (in *interner) reset() {
	in.strings = make(map[string]string)
	in.blobs = make(map[string][]byte)
	in.env = make(map[string][]*fettlev1.KeyValue)
	in.specs = make(map[specKey]*fettlev1.JobSpec)
	in.gpus = make(map[gpuKey]*fettlev1.GPURequest)
	in.held = 0
}

// room makes room for n more bytes.
func (in *interner) room(n int) {
	if in.held += n + 64; in.held > maxInterned {
		in.reset()
		in.held = n + 64
	}
}

func (in *interner) str(p *string) {
	s := *p
	if s == "" || len(s) > maxInternedString {
		return
	}
	if old, ok := in.strings[s]; ok {
		*p = old
		return
	}
	in.room(len(s))
	in.strings[s] = s
}

func (in *interner) blob(p *[]byte) {
	b := *p
	if len(b) == 0 || len(b) > maxInternedBlob {
		return
	}
	if old, ok := in.blobs[string(b)]; ok {
		*p = old
		return
	}
	in.room(2 * len(b))
	in.blobs[string(b)] = b
}

func (in *interner) keyValues(p *[]*fettlev1.KeyValue) {
	if len(*p) == 0 {
		return
	}
	k := in.key[:0]
	for _, kv := range *p {
		k = binary.AppendUvarint(k, uint64(len(kv.GetKey())))
		k = append(k, kv.GetKey()...)
		k = binary.AppendUvarint(k, uint64(len(kv.GetValue())))
		k = append(k, kv.GetValue()...)
	}
	in.key = k
	if len(k) > maxInternedBlob {
		return
	}
	if old, ok := in.env[string(k)]; ok {
		*p = old
		return
	}
	for _, kv := range *p {
		in.str(&kv.Key)
		in.str(&kv.Value)
	}
	in.room(2 * len(k))
	in.env[string(k)] = *p
}

func (in *interner) list(vs []string) {
	for i := range vs {
		in.str(&vs[i])
	}
}

// share makes s share what it can with earlier ones. s must not be visible to readers yet.
func (in *interner) share(s *fettlev1.JobSpec) {
	for _, p := range []*string{
		&s.Name, &s.Method, &s.Partition, &s.Project, &s.Comment, &s.WorkDir, &s.StdoutPath, &s.StderrPath, &s.ConfigPath,
	} {
		in.str(p)
	}
	if g := s.GpusPerNode; g != nil && len(g.Type) <= maxInternedString {
		k := gpuKey{g.Type, g.Count}
		if old, ok := in.gpus[k]; ok {
			s.GpusPerNode = old
		} else {
			in.room(len(g.Type))
			in.gpus[k] = g
		}
	}
	in.str(&s.Constraint)
	in.str(&s.Reservation)
	in.list(s.Nodelist)
	in.list(s.Exclude)
	in.list(s.DeviceUuids)
	in.list(s.Args)
	in.keyValues(&s.Env)
	in.keyValues(&s.Set)
	in.blob(&s.Script)
	in.blob(&s.Config)
}

// spec returns an earlier specification that is equal to s, or s itself after making it share what it can.
func (in *interner) spec(key specKey, s *fettlev1.JobSpec) *fettlev1.JobSpec {
	if old, ok := in.specs[key]; ok {
		return old
	}
	in.share(s)
	if len(in.specs) >= maxInternedSpecs {
		clear(in.specs)
	}
	in.specs[key] = s
	return s
}
