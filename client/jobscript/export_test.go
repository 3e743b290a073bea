package jobscript

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseExport(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Export{
		"ALL":              {All: true},
		"all":              {All: true},
		"NONE":             {},
		"NIL":              {},
		"HOME, PATH":       {Vars: []ExportVar{{Name: "HOME"}, {Name: "PATH"}}},
		"ALL,A=b,C":        {All: true, Vars: []ExportVar{{"A", "b", true}, {"C", "", false}}},
		"A=b=c,D=":         {Vars: []ExportVar{{"A", "b=c", true}, {"D", "", true}}},
		"A='x,y',B=it's,C": {Vars: []ExportVar{{"A", "x,y", true}, {"B", "it's", true}, {"C", "", false}}},
		"NONE_X=1":         {Vars: []ExportVar{{"NONE_X", "1", true}}},
	} {
		if got, err := ParseExport(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseExport(%q) = %+v, %v", in, got, err)
		}
	}
	const remedy = "; use ALL, NONE or a list such as ALL,WANDB_MODE=offline,HF_HOME"
	for in, want := range map[string]string{
		"":                                    `--export "": is empty` + remedy,
		"A,,B":                                `--export "A,,B": has an empty item` + remedy,
		"A,":                                  `--export "A,": has an empty item` + remedy,
		"=x":                                  `--export "=x": has an empty item` + remedy,
		"ALL,NONE":                            `--export "ALL,NONE": mixes NONE with other items` + remedy,
		"A-B=1":                               `--export "A-B=1": has a bad variable name "A-B"` + remedy,
		"1A":                                  `--export "1A": has a bad variable name "1A"` + remedy,
		"A='x":                                `--export "A='x": has a ' without its partner` + remedy,
		"A=\x00":                              `--export "A=\x00": holds a NUL byte; remove it`,
		strings.Repeat("A,", 512) + "B":       `--export "` + strings.Repeat("A,", 32) + `"...: names more than 512 variables; set variables in the script`,
		"A=" + strings.Repeat("x", 64<<10):    `--export "A=` + strings.Repeat("x", 62) + `"...: is longer than 64 KiB; set variables in the script`,
		"A=1,$(id)=2,\x1b]0;title\x07=3":      `--export "A=1,$(id)=2,\x1b]0;title\a=3": has a bad variable name "$(id)"` + remedy,
		"LD_PRELOAD=/x.so,BASH_FUNC_x%%=() {": `--export "LD_PRELOAD=/x.so,BASH_FUNC_x%%=() {": has a bad variable name "BASH_FUNC_x%%"` + remedy,
	} {
		got, err := ParseExport(in)
		if err == nil || err.Error() != want {
			t.Errorf("%.40q: got %+v, %v\nwant %s", in, got, err, want)
			continue
		}
		printable(t, err.Error())
	}
}
