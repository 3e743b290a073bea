package state

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// fillField gives a field a value that is not its zero.
func fillField(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsList():
		l := m.Mutable(f).List()
		if f.Kind() == protoreflect.MessageKind {
			l.AppendMutable()
		} else {
			l.Append(scalar(f))
		}
	case f.Kind() == protoreflect.MessageKind:
		m.Mutable(f)
	default:
		m.Set(f, scalar(f))
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("x"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(2)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(3)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(3)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(3)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(3)
	}
	panic(f.Kind().String())
}

// The hash sees every field of an attempt, its parts and their exits, but for the lines for people; a field that is added
// to the protos has to be added here, or replicas could differ in it unnoticed. The clones copy every field.
func TestHashAndClonesAreComplete(t *testing.T) {
	t.Parallel()
	row := func(change func(a *fettlev1.Attempt)) *Job {
		a := &fettlev1.Attempt{Nodes: []*fettlev1.NodeAllocation{{Exit: &fettlev1.Exit{}}}}
		change(a)
		return &Job{Spec: &fettlev1.JobSpec{}, State: model.Running, Attempts: []*fettlev1.Attempt{a}}
	}
	var buf canon
	plain := hashJob(&buf, row(func(*fettlev1.Attempt) {}))
	forPeople := map[protoreflect.Name]bool{"detail": true}
	for name, pick := range map[string]func(a *fettlev1.Attempt) protoreflect.Message{
		"attempt":    func(a *fettlev1.Attempt) protoreflect.Message { return a.ProtoReflect() },
		"allocation": func(a *fettlev1.Attempt) protoreflect.Message { return a.Nodes[0].ProtoReflect() },
		"exit":       func(a *fettlev1.Attempt) protoreflect.Message { return a.Nodes[0].Exit.ProtoReflect() },
	} {
		fields := pick(row(func(*fettlev1.Attempt) {}).Attempts[0]).Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if f.Name() == "exit" {
				continue
			}
			j := row(func(a *fettlev1.Attempt) { fillField(pick(a), f) })
			if changed := hashJob(&buf, j) != plain; changed == forPeople[f.Name()] {
				t.Errorf("%s of an %s: in the hash is %v", f.Name(), name, changed)
			}
			if name == "attempt" && !cloneAttempt(j.Attempts[0]).ProtoReflect().Has(f) {
				t.Errorf("cloneAttempt forgets %s", f.Name())
			}
			if name == "allocation" && !cloneAllocation(j.Attempts[0].Nodes[0]).ProtoReflect().Has(f) {
				t.Errorf("cloneAllocation forgets %s", f.Name())
			}
		}
	}
}
