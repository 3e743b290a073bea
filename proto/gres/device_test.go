package gres

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseDevices(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Devices{
		"cuda:0":        {Indexes: []int{0}},
		"CUDA:0,1":      {Indexes: []int{0, 1}},
		"3,1":           {Indexes: []int{3, 1}},
		"gpu:2":         {Indexes: []int{2}},
		"cuda:0,cuda:2": {Indexes: []int{0, 2}},
		"cuda:4-6":      {Indexes: []int{4, 5, 6}},
		"GPU-5a1c0e4b-0000-1111-2222-333344445555": {UUIDs: []string{"GPU-5a1c0e4b-0000-1111-2222-333344445555"}},
		"GPU-a, MIG-b": {UUIDs: []string{"GPU-a", "MIG-b"}},
	} {
		got, err := ParseDevices(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseDevices(%q) = %+v, %v", in, got, err)
		}
	}
	const remedy = "; use cuda:0, cuda:0,1 or a GPU's UUID (GPU-...)"
	refusals(t, ParseDevices, [][2]string{
		{"", `device "": is empty` + remedy},
		{"cpu", `device "cpu": pins no GPU; leave the device out and ask for no GPUs`},
		{"auto", `device "auto": names no index; leave the device out for any GPU, or use cuda:0, cuda:0,1 or a GPU's UUID (GPU-...)`},
		{"cuda:", `device "cuda:": "cuda:" is neither an index nor a UUID` + remedy},
		{"cuda:0,", `device "cuda:0,": has an empty item` + remedy},
		{"cuda:-1", `device "cuda:-1": "cuda:-1" is neither an index nor a UUID` + remedy},
		{"cuda:x", `device "cuda:x": "cuda:x" is neither an index nor a UUID` + remedy},
		{"0,0", `device "0,0": names device 0 twice` + remedy},
		{"0-3,2", `device "0-3,2": names device 2 twice` + remedy},
		{"3-1", `device "3-1": the range "3-1" runs backwards` + remedy},
		{"64", `device "64": an index is above 63` + remedy},
		{"0-99999999999999999999", `device "0-99999999999999999999": an index is above 63` + remedy},
		{"0,GPU-a", `device "0,GPU-a": mixes indexes and UUIDs` + remedy},
		{"GPU-", `device "GPU-": the UUID "GPU-" is cut off` + remedy},
		{"GPU-a,GPU-a", `device "GPU-a,GPU-a": names "GPU-a" twice` + remedy},
		{"GPU-a/../b", `device "GPU-a/../b": the UUID "GPU-a/../b" may hold only letters, digits and dashes` + remedy},
		{"GPU-" + strings.Repeat("a", 93), `device "GPU-` + strings.Repeat("a", 60) + `"...: the UUID is longer than 96 characters` + remedy},
	})
}

func TestDevicesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want Devices
		if rapid.Bool().Draw(t, "uuids") {
			want.UUIDs = rapid.SliceOfNDistinct(rapid.StringMatching(`(GPU|MIG)-[0-9a-f-]{1,36}`), 1, 9, rapid.ID[string]).Draw(t, "uuids")
		} else {
			want.Indexes = rapid.SliceOfNDistinct(rapid.IntRange(0, MaxDeviceIndex), 1, 9, rapid.ID[int]).Draw(t, "indexes")
		}
		got, err := ParseDevices(want.String())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q read as %+v, %v", want.String(), got, err)
		}
	})
	if s := (Devices{}).String(); s != "" {
		t.Errorf("no pins print as %q", s)
	}
}

func FuzzDevices(f *testing.F) {
	for _, s := range []string{"cuda:0", "cuda:0,1", "0-7", "gpu:2", "GPU-5a1c0e4b", "MIG-1,GPU-2", "0,GPU-a", "0-63"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDevices(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if d.Len() == 0 || d.Len() > MaxGPUsPerNode {
			t.Fatalf("%q names %d devices", s, d.Len())
		}
		if again, err := ParseDevices(d.String()); err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("%q read as %+v, then as %+v, %v", s, d, again, err)
		}
	})
}
