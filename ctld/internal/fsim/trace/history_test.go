package trace

import (
	"reflect"
	"strings"
	"testing"
)

func TestReadHistory(t *testing.T) {
	t.Parallel()
	const base = `"user":"ann","attempt":1,`
	got, err := ReadHistory(strings.NewReader(`{"header":{"index":7},"jobs":[
{"id":3,`+base+`"state":"completed","submit_ms":1700000010000,"eligible_ms":1700000020000,"end_ms":1,"spec":{"priority":2,"project":"vision","time_limit_s":600,"cpus_per_node":4,"mem_mib_per_node":1000,"gpus_per_node":{"type":"h100","count":2},"gpus_total":null,"gpu_alternatives":[{"type":"a100","count":4}]},"attempts":[{"start_ms":1700000030000,"end_ms":1700000130400,"lost_gpu_s":0,"nodes":[{"gpu_uuids":["a","b"],"gpu_milli":0},{"gpu_uuids":["c","d"]}]}]},
{"id":1,"user":"bob","state":"failed","submit_ms":1700000000000,"eligible_ms":1700000900000,"end_ms":1,"attempt":2,"spec":{"priority":9,"gpus_per_node":{"type":"","count":1}},"attempts":[{"start_ms":1000,"end_ms":101000,"lost_gpu_s":40,"nodes":[{"gpu_uuids":["a"],"gpu_milli":250}]},{"start_ms":201000,"end_ms":231000,"nodes":[{"gpu_uuids":["a"],"gpu_milli":250}]}]},
{"id":4,`+base+`"state":"running","submit_ms":1,"end_ms":0,"spec":null,"attempts":[{"start_ms":1,"end_ms":0,"nodes":[{"gpu_uuids":["a"]}]}]},
{"id":5,`+base+`"state":"cancelled","submit_ms":1,"end_ms":9,"attempts":[]},
{"id":6,`+base+`"state":"completed","submit_ms":1,"end_ms":9,"attempts":[{"start_ms":1,"end_ms":5000,"nodes":[{"gpu_uuids":[]}]}]}
]}
`), "h.json")
	if err != nil {
		t.Fatal(err)
	}
	want := []Job{
		{ID: "1", Row: 0, SubmitS: 0, DurationS: 100 - 40 + 30, GPUs: 1, GPUMilli: 250, User: "bob", Priority: 9, Status: "FAILED"},
		{ID: "3", Row: 1, SubmitS: 20, DurationS: 100, GPUs: 4, Types: []string{"h100", "a100"}, CPUMilli: 8000, MemMiB: 2000, User: "ann", VC: "vision", Priority: 2, Status: "COMPLETED", LimitS: 600},
	}
	if got.LeftOut != 3 || !reflect.DeepEqual(got.Jobs, want) {
		t.Errorf("left out %d, got %+v\nwant %+v", got.LeftOut, got.Jobs, want)
	}
}

func TestReadInventory(t *testing.T) {
	t.Parallel()
	got, err := ReadInventory(strings.NewReader(`{"header":null,"nodes":[
{"name":"n1","inventory":{"cpus":64,"memory_mib":1000,"gpus":[{"uuid":"a","type":"h100"},{"uuid":"b","type":"h100"},{"uuid":"c","type":"h100"},{"uuid":"c1","type":"h100-1g","mig_parent":"c"},{"uuid":"c2","type":"h100-1g","mig_parent":"c"}]}},
{"name":"n2","inventory":{"cpus":8,"memory_mib":500,"gpus":[{"uuid":"d","type":"t4"}]}},
{"name":"n3","inventory":null}]}`), "i.json")
	want := Cluster{
		{"n1/h100", 2, "h100", 64000, 1000}, {"n1/h100-1g", 2, "h100-1g", 64000, 1000}, {"n2", 1, "t4", 8000, 500},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestBadExports(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                           "h.json: it is cut off",
		"[]":                         "h.json: not a JSON document",
		"{}":                         `h.json: there is no "jobs" in it`,
		`{"jobs":{}}`:                `h.json: "jobs" is not a list`,
		`{"jobs":[]}`:                "h.json: no job in it ended after it ran on GPUs",
		`{"jobs":[{"id":"x"}]}`:      "h.json: json: cannot unmarshal",
		`{"header":{},"jobs":[{},{}`: "h.json: it is cut off",
	} {
		if _, err := ReadHistory(strings.NewReader(text), "h.json"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s…", text, err, want)
		}
	}
	if _, err := ReadInventory(strings.NewReader(`{"nodes":[]}`), "i.json"); err == nil || !strings.Contains(err.Error(), "no node in it has GPUs") {
		t.Errorf("got %v", err)
	}
}

func FuzzReadHistory(f *testing.F) {
	f.Add(`{"jobs":[{"id":1,"submit_ms":5,"end_ms":9,"attempts":[{"start_ms":1,"end_ms":5000,"nodes":[{"gpu_uuids":["a"]}]}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ReadHistory(strings.NewReader(text), "h.json")
		if err != nil {
			return
		}
		for _, j := range e.Jobs {
			if j.DurationS < 1 || j.GPUs < 1 || j.SubmitS < 0 || j.Priority < 1 || j.Priority > 10 {
				t.Errorf("bad job %+v", j)
			}
		}
	})
}
