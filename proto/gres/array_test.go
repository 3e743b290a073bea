package gres

import (
	"fmt"
	"slices"
	"testing"
)

func TestParseArray(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0-99%4":      "0-99%4",
		"1,3,5-9:2":   "1-9:2",
		"7":           "7",
		"0":           "0",
		"5,4-6,5":     "4-6",
		" 3 , 1-2 ":   "1-3",
		"0-9:4":       "0-8:4",
		"5-5":         "5",
		"3-4:7":       "3",
		"1,2,9":       "1-2,9",
		"1,4,6":       "1,4,6",
		"0-10:2,1":    "0-2,4-10:2",
		"999999%1":    "999999%1",
		"0-9999":      "0-9999",
		"007-010":     "7-10",
		"0-99 % 4 ":   "0-99%4",
		"0-999999:99": "",
	} {
		got, err := ParseArray(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q was read as %v", in, got)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("ParseArray(%q) = %v, %v", in, got, err)
		}
	}
	if a, err := ParseArray("0-19998:2"); err != nil || a.Len() != MaxArrayElements {
		t.Errorf("a full array: %d, %v", a.Len(), err)
	}
	const remedy = "; use elements such as 0-99%4 or 1,3,5-9:2"
	refusals(t, ParseArray, [][2]string{
		{"", `array "": has an empty item` + remedy},
		{"1,,2", `array "1,,2": has an empty item` + remedy},
		{"5-", `array "5-": the range "5-" lacks a number` + remedy},
		{"9-5", `array "9-5": the range "9-5" runs backwards` + remedy},
		{"x", `array "x": "x" is not an element number` + remedy},
		{"-1", `array "-1": the range "-1" lacks a number` + remedy},
		{"1-2-3", `array "1-2-3": "1-2-3" is not an element number` + remedy},
		{"3:2", `array "3:2": gives a step for the single element "3:2"` + remedy},
		{"0-9:0", `array "0-9:0": the step is zero` + remedy},
		{"0-9:x", `array "0-9:x": the step "x" is not a number` + remedy},
		{"1000000", `array "1000000": "1000000" is above 999999` + remedy},
		{"0-10000", `array "0-10000": names more than 10000 elements` + remedy},
		{"0-9%0", `array "0-9%0": the limit is zero` + remedy},
		{"0-9%", `array "0-9%": the limit "" is not a number` + remedy},
		{"0-9%10001", `array "0-9%10001": the limit is above 10000` + remedy},
		{"0-9%4%5", `array "0-9%4%5": the limit "4%5" is not a number` + remedy},
	})
}

func TestElements(t *testing.T) {
	t.Parallel()
	if j, i, ok := ParseElement(" 12_3 "); j != 12 || i != 3 || !ok || FormatElement(j, i) != "12_3" {
		t.Errorf("12_3 read as %d, %d, %v", j, i, ok)
	}
	for _, s := range []string{"", "12", "12_", "_3", "0_3", "12_x", "12_3_4", "12_1000000", "-1_2", "9223372036854775807_1"} {
		if _, _, ok := ParseElement(s); ok {
			t.Errorf("%q is taken for an element", s)
		}
	}
}

func TestParseJobs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"12,15-18":                  "12,15-18",
		"12_3":                      "12_3",
		"12_[1-5,7]":                "12_[1-5,7]",
		"12_3,12_[4-9:5],2, 12_3 ":  "2,12_[3-4,9]",
		"30_1,12_[0-2]":             "30_1,12_[0-2]",
		"5,30_2,4":                  "4-5,30_2",
		"9223372036854775806_[0,1]": "9223372036854775806_[0-1]",
	} {
		if got, err := ParseJobs(in); err != nil || got.String() != want && in != "5,30_2,4" || len(got.IDs)+len(got.Elements) == 0 {
			t.Errorf("ParseJobs(%q) = %v, %v", in, got, err)
		}
	}
	if got, _ := ParseJobs("5,30_2,4"); !slices.Equal(got.IDs, []uint64{5, 4}) || len(got.Elements) != 1 {
		t.Errorf("got %+v", got)
	}
	const remedy = "; use job numbers such as 12,15-20, or elements such as 12_3 or 12_[1-5,7]"
	refusals(t, ParseJobs, [][2]string{
		{"", `job list "": has an empty item` + remedy},
		{"12_", `job list "12_": "12_" is not an element of an array` + remedy},
		{"12_[1", `job list "12_[1": "12_[1" leaves a bracket open` + remedy},
		{"12_[9-1]", `job list "12_[9-1]": "12_[9-1]" the range "9-1" runs backwards` + remedy},
		{"x_3", `job list "x_3": "x_3" is not a job number` + remedy},
		{"_3", `job list "_3": the range "_3" lacks a number` + remedy},
		{"1,x", `job list "1,x": "x" is not a job number` + remedy},
	})
}

func TestParseDependencies(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"afterok:12":                            "afterok:12",
		"afterok:12:13_4, afterany:20":          "afterok:12,afterok:13_4,afterany:20",
		"AfterNotOK:1?after:2":                  "afternotok:1?after:2",
		"singleton":                             "singleton",
		"singleton,afterok:3,afterok:3:3":       "singleton,afterok:3",
		"afterok:9223372036854775806?singleton": "afterok:9223372036854775806?singleton",
	} {
		if got, err := ParseDependencies(in); err != nil || got.String() != want {
			t.Errorf("ParseDependencies(%q) = %v, %v", in, got, err)
		}
	}
	const remedy = "; " + dependencyRemedy
	refusals(t, ParseDependencies, [][2]string{
		{"", `dependency "": has an empty item` + remedy},
		{"afterok:1,", `dependency "afterok:1,": has an empty item` + remedy},
		{"afterok", `dependency "afterok": "afterok" names no job` + remedy},
		{"afterok:", `dependency "afterok:": "afterok" lacks a job number` + remedy},
		{"afterok:x", `dependency "afterok:x": "afterok:x" is not a job number` + remedy},
		{"afterok:0", `dependency "afterok:0": job numbers start at 1` + remedy},
		{"afterok:1_x", `dependency "afterok:1_x": "1_x" is not an element of an array` + remedy},
		{"aftercorr:1", `dependency "aftercorr:1": "aftercorr" is not a kind of dependency` + remedy},
		{"singleton:1", `dependency "singleton:1": names jobs for singleton, which takes none` + remedy},
		{"afterok:1,after:2?after:3", `dependency "afterok:1,after:2?after:3": mixes , and ?` + remedy},
	})
	long := "afterok"
	for i := range MaxDependencies + 1 {
		long += fmt.Sprintf(":%d", i+1)
	}
	if _, err := ParseDependencies(long); err == nil {
		t.Error("257 jobs are accepted")
	}
}

func TestParseGRESList(t *testing.T) {
	t.Parallel()
	got, err := ParseGRESList("gpu:h200:1| gpu:H100:2 ")
	if err != nil || !slices.Equal(got, []GPUs{{"h200", 1}, {"h100", 2}}) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseGRESList("gpu:4"); err != nil || !slices.Equal(got, []GPUs{{"", 4}}) {
		t.Errorf("got %v, %v", got, err)
	}
	const remedy = "; use requests such as gpu:h200:1|gpu:h100:2"
	refusals(t, ParseGRESList, [][2]string{
		{"gpu:1|", `gres "gpu:1|": "": is empty` + remedy},
		{"gpu:1|gpu:1", `gres "gpu:1|gpu:1": names gpu:1 twice` + remedy},
		{"gpu:1|none", `gres "gpu:1|none": has an alternative without GPUs` + remedy},
		{"gpu:1|cpu:1", `gres "gpu:1|cpu:1": "cpu:1": unknown resource "cpu"` + remedy},
	})
}

// Arrays print as they read, ascending and each element once.
func FuzzArray(f *testing.F) {
	for _, s := range []string{"0-99%4", "1,3,5-9:2", "", "0", "9-1", "5,4-6,5", "0-999999:1000", "1%x", "0-10:2,1-9:2", "4294967296"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseArray(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if a.Len() < 1 || a.Len() > MaxArrayElements {
			t.Fatalf("%q has %d elements", s, a.Len())
		}
		for i, r := range a.Ranges {
			if r.First > r.Last || r.Last > MaxArrayIndex || r.Step < 1 || (r.Last-r.First)%r.Step != 0 || i > 0 && a.Ranges[i-1].Last >= r.First {
				t.Fatalf("%q has ranges %v", s, a.Ranges)
			}
		}
		if again, err := ParseArray(a.String()); err != nil || !slices.Equal(again.Ranges, a.Ranges) || again.MaxRunning != a.MaxRunning {
			t.Fatalf("%q printed as %q, read back as %v, %v", s, a, again, err)
		}
	})
}

func FuzzJobs(f *testing.F) {
	for _, s := range []string{"12,15-20", "12_3", "12_[1-5,7],3", "1_[", "]1_2", "1_[1,2],1_[2-4]", "_", "5_0-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		j, err := ParseJobs(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := ParseJobs(j.String())
		if err != nil || again.String() != j.String() {
			t.Fatalf("%q printed as %q, read back as %q, %v", s, j, again, err)
		}
	})
}

func FuzzDependencies(f *testing.F) {
	for _, s := range []string{"afterok:12:13_4,afterany:20", "singleton", "after:1?after:2", "afterok:", ":", "afterok:1,?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDependencies(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if len(d.List) == 0 || len(d.List) > MaxDependencies {
			t.Fatalf("%q has %d dependencies", s, len(d.List))
		}
		again, err := ParseDependencies(d.String())
		if err != nil || !slices.Equal(again.List, d.List) || again.Any != d.Any && len(d.List) > 1 {
			t.Fatalf("%q printed as %q, read back as %q, %v", s, d, again, err)
		}
	})
}
