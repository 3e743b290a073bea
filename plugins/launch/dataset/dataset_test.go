package dataset

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspect(t *testing.T) {
	t.Parallel()
	chatTags := `{"assistant_tag":"assistant","content_tag":"content","function_tag":"function_call","observation_tag":"observation","role_tag":"role","system_tag":"system","user_tag":"user"}`
	gptTags := `{"assistant_tag":"gpt","content_tag":"value","function_tag":"function_call","observation_tag":"observation","role_tag":"from","system_tag":"system","user_tag":"human"}`
	tests := []struct {
		name, file, text string
		// The entry without its file_name.
		want   string
		stages string
	}{
		{"alpaca list", "a.json", "[\n {\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"},\n", `{"columns":{"prompt":"instruction","query":"input","response":"output"}}`, "sft pt ppo"},
		{"alpaca lines", "a.jsonl", `{"instruction":"a","output":"b"}` + "\n{", `{"columns":{"prompt":"instruction","response":"output"}}`, "sft pt ppo"},
		{"lines in a .json", "a.json", `{"instruction":"a","output":"b","system":"s","history":[]}` + "\n", `{"columns":{"history":"history","prompt":"instruction","response":"output","system":"system"}}`, "sft pt ppo"},
		{"byte order mark", "a.json", "\xef\xbb\xbf[{\"instruction\":\"a\",\"output\":\"b\"}]", `{"columns":{"prompt":"instruction","response":"output"}}`, "sft pt ppo"},
		{"prompt and completion", "a.jsonl", `{"prompt":"a","completion":"b"}`, `{"columns":{"prompt":"prompt","response":"completion"}}`, "sft pt ppo"},
		{"question and answer", "a.jsonl", `{"question":"a","answer":"b"}`, `{"columns":{"prompt":"question","response":"answer"}}`, "sft pt ppo"},
		{"sharegpt", "a.json", `[{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}]`, `{"formatting":"sharegpt","columns":{"messages":"conversations"},"tags":` + gptTags + `}`, "sft pt ppo"},
		{"messages", "a.jsonl", `{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`, `{"formatting":"sharegpt","columns":{"messages":"messages"},"tags":` + chatTags + `}`, "sft pt ppo"},
		{"conversations in chat words", "a.jsonl", `{"conversations":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":"[]"}`, `{"formatting":"sharegpt","columns":{"messages":"conversations","tools":"tools"},"tags":` + chatTags + `}`, "sft pt ppo"},
		{"only the user speaks", "a.jsonl", `{"messages":[{"role":"user","content":"a"}]}`, `{"formatting":"sharegpt","columns":{"messages":"messages"},"tags":` + chatTags + `}`, "sft pt ppo"},
		{"tools answer", "a.jsonl", `{"messages":[{"role":"user","content":"a"},{"role":"function","content":"f"},{"role":"tool","content":"t"},{"role":"assistant","content":"b"}]}`,
			`{"formatting":"sharegpt","columns":{"messages":"messages"},"tags":` + strings.NewReplacer(`"function_call"`, `"function"`, `"observation"`, `"tool"`).Replace(strings.Replace(chatTags, `"observation_tag":"observation"`, `"observation_tag":"tool"`, 1)) + `}`, "sft pt ppo"},
		{"images", "a.json", `[{"messages":[{"role":"user","content":"<image>a"},{"role":"assistant","content":"b"}],"images":["x.png"]}]`, `{"formatting":"sharegpt","columns":{"images":"images","messages":"messages"},"tags":` + chatTags + `}`, "sft pt ppo"},
		{"pairs", "a.json", `[{"instruction":"a","input":"","chosen":"b","rejected":"c"}]`, `{"ranking":true,"columns":{"chosen":"chosen","prompt":"instruction","query":"input","rejected":"rejected"}}`, "dpo rm"},
		{"pairs on a prompt", "a.jsonl", `{"prompt":"a","chosen":"b","rejected":"c"}`, `{"ranking":true,"columns":{"chosen":"chosen","prompt":"prompt","rejected":"rejected"}}`, "dpo rm"},
		{"pairs on a conversation", "a.json", `[{"conversations":[{"from":"human","value":"a"}],"chosen":{"from":"gpt","value":"b"},"rejected":{"from":"gpt","value":"c"}}]`, `{"formatting":"sharegpt","ranking":true,"columns":{"chosen":"chosen","messages":"conversations","rejected":"rejected"},"tags":` + gptTags + `}`, "dpo rm"},
		{"verdicts", "a.json", `[{"instruction":"a","output":"b","label":true}]`, `{"columns":{"prompt":"instruction","response":"output"}}`, "kto sft"},
		{"text records", "a.jsonl", `{"text":"a"}`, `{"columns":{"prompt":"text"}}`, "pt"},
		{"text lines", "a.txt", "a\nb\n", `{"columns":{"prompt":"text"}}`, "pt"},
		{"csv", "a.csv", "instruction,input,output\n\"a, b\",,c\n", `{"columns":{"prompt":"instruction","query":"input","response":"output"}}`, "sft pt ppo"},
		{"arrow", "a.arrow", "ARROW1\x00\x00\x0b\x00\x00\x00instruction\x00\x06\x00\x00\x00output\x00", `{"columns":{"prompt":"instruction","response":"output"}}`, "sft pt ppo"},
		{"parquet", "a.parquet", "PAR1....\x15\x08\x08messages5\x02\x18\x04role\x25\x18\x07content\x00\x00\x00\x10PAR1", `{"formatting":"sharegpt","columns":{"messages":"messages"},"tags":` + strings.Replace(chatTags, `"observation_tag":"observation"`, `"observation_tag":"tool"`, 1) + `}`, "sft pt ppo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, t.TempDir(), tt.file, tt.text)
			info, err := Inspect(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(info.Stages(), " "); got != tt.stages {
				t.Errorf("good for %q, want %q", got, tt.stages)
			}
			file, err := InfoFile([]*Info{info}, "sft")
			if err != nil {
				t.Fatal(err)
			}
			var listing map[string]entry
			if err := json.Unmarshal(file, &listing); err != nil {
				t.Fatal(err)
			}
			e := listing["fettle_0"]
			if e.FileName != path {
				t.Errorf("file_name %q, want %q", e.FileName, path)
			}
			var want entry
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			want.FileName = path
			got, _ := json.Marshal(e)
			wanted, _ := json.Marshal(want)
			if string(got) != string(wanted) {
				t.Errorf("entry\n %s\nwant\n %s", got, wanted)
			}
		})
	}
}

func TestVerdictsOnlyForKTO(t *testing.T) {
	t.Parallel()
	info, err := Inspect(write(t, t.TempDir(), "a.json", `[{"instruction":"a","output":"b","label":true}]`))
	if err != nil {
		t.Fatal(err)
	}
	for stage, want := range map[string]bool{"kto": true, "sft": false} {
		file, err := InfoFile([]*Info{info}, stage)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(file), `"kto_tag": "label"`); got != want {
			t.Errorf("stage %s: kto_tag is there: %v, want %v", stage, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	big := `{"instruction":"` + strings.Repeat("x", sniffBytes) + `","output":"b"}`
	tests := []struct{ name, file, text, want string }{
		{"nothing in it", "a.json", "", "is empty; put records into it"},
		{"only blanks", "a.jsonl", " \n\n", "is empty; put records into it"},
		{"empty list", "a.json", "[ ]", "is an empty list; put records into it"},
		{"list of texts", "a.json", `["a"]`, "does not start with a record; write a list of objects, or one object per line"},
		{"not JSON", "a.json", "hello", "does not start with a record; write a list of objects, or one object per line"},
		{"torn", "a.json", `[{"instruction": "a`, "is not valid JSON at its first record; check its quotes, commas and brackets"},
		{"single quotes", "a.json", `[{'instruction': 'a'}]`, "is not valid JSON at its first record; check its quotes, commas and brackets"},
		{"UTF-16", "a.json", "\xff\xfe[\x00{\x00", "is not UTF-8 text; save it as UTF-8"},
		{"huge record", "a.jsonl", big, "starts with a record longer than 4 MiB; split it"},
		{"deep record", "a.json", `[{"a":` + strings.Repeat("[", 100_000) + "]", "holds a record nested too deep; flatten it"},
		{"unknown columns", "a.jsonl", `{"foo":1,"bar":2}`, "has records of an unknown layout, with the columns bar, foo; name them instruction and output, or messages, or chosen and rejected, or text"},
		{"no columns", "a.jsonl", `{}`, "has records of an unknown layout, with the columns none; name them instruction and output, or messages, or chosen and rejected, or text"},
		{"only a prompt", "a.csv", "instruction\na\n", "has records of an unknown layout, with the columns instruction; name them instruction and output, or messages, or chosen and rejected, or text"},
		{"conversation of texts", "a.json", `[{"conversations":["a","b"]}]`, "has a first record whose conversations are no list of turns; write a list of {role, content} or {from, value}"},
		{"conversation without turns", "a.json", `[{"messages":[]}]`, "has a first record whose messages are no list of turns; write a list of {role, content} or {from, value}"},
		{"turns without speaker", "a.json", `[{"messages":[{"text":"a"}]}]`, "has turns in messages that name no speaker, only text; give each turn role and content, or from and value"},
		{"turns without text", "a.json", `[{"messages":[{"role":"user","text":"a"}]}]`, "has turns in messages without a text, only role, text; give each turn role and content, or from and value"},
		{"strange speakers", "a.json", `[{"messages":[{"role":"alice","content":"a"}]}]`, "has turns in messages whose speakers are neither user and assistant nor human and gpt; rename the speakers"},
		{"whole conversations as answers", "a.json", `[{"chosen":[{"role":"user","content":"a"}],"rejected":[]}]`, "holds whole conversations as chosen and rejected; put the common turns into a column conversations"},
		{"lists as answers", "a.json", `[{"prompt":"a","chosen":["b"],"rejected":["c"]}]`, "holds lists as chosen and rejected; write them as texts"},
		{"list as prompt", "a.json", `[{"prompt":[{"role":"user","content":"a"}],"completion":"b"}]`, "holds lists in its column prompt; name the column messages if it holds conversations"},
		{"excel", "a.xlsx", "x", `has the file type ".xlsx"; convert it to .json, .jsonl, .csv, .parquet, .arrow or .txt`},
		{"capital type", "a.JSON", "[]", "has the file type .JSON; write it in lower case"},
		{"compressed", "a.json.gz", "x", "is compressed; unpack it"},
		{"no type", "data", "x", "has no file type; name it .json, .jsonl, .csv, .parquet, .arrow or .txt"},
		{"cut parquet", "a.parquet", "PAR1 and then nothing", "is not a parquet file; check that it was written to its end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Inspect(write(t, t.TempDir(), tt.file, tt.text))
			var refusal *Refusal
			if !errors.As(err, &refusal) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	refused := func(path, want string) {
		t.Helper()
		_, err := Inspect(path)
		var refusal *Refusal
		if !errors.As(err, &refusal) || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	missing := "does not exist; give the path of a data file, relative to the config or absolute"
	refused(filepath.Join(dir, "none.json"), missing)
	refused(filepath.Join(write(t, dir, "f.json", "[]"), "below.json"), missing)
	refused(filepath.Join(dir, strings.Repeat("x", 300)+".json"), "is not a usable path; give the path of a data file")
	refused("/dev/zero", "is neither a file nor a directory; give a data file")

	sub := filepath.Join(dir, "many")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	refused(sub, "is an empty directory; put data files into it")
	write(t, sub, "b.jsonl", `{"text":"a"}`)
	write(t, sub, "a.json", `[{"instruction":"a","output":"b"}]`)
	if info, err := Inspect(sub); err != nil || info.Path != sub || !slices.Contains(info.Columns, "instruction") {
		t.Errorf("directory: %+v, %v; want the columns of its first file", info, err)
	}
	write(t, sub, "c.csv", "a\n")
	refused(sub, `holds files of several types, "a.json" and "c.csv"; keep files of one type in it`)

	if os.Getuid() != 0 {
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(filepath.Join(closed, "a.json")); !errors.Is(err, ErrUnseen) {
			t.Errorf("closed directory: %v, want ErrUnseen", err)
		}
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nearest := func(word string, candidates []string) string {
		if slices.Contains(candidates, word+"y") {
			return word + "y"
		}
		return ""
	}
	info := filepath.Join(dir, InfoName)
	check := func(want string, names ...string) {
		t.Helper()
		err := Named(dir, names, nearest)
		if got := errorText(err); got != want {
			t.Errorf("%v: %s\nwant %s", names, got, want)
		}
	}
	check("is looked up in "+info+", which is not there; set dataset_dir, or use data_path: FILE", "identity")
	write(t, dir, InfoName, "{nope")
	check("is looked up in "+info+", which is not valid JSON; check its quotes, commas and brackets", "identity")
	write(t, dir, InfoName, `{"identity":{"file_name":"identity.json"},"far":{"hf_hub_url":"a/b"},"none":{}}`)
	check(`"identit" is not listed in `+info+"; did you mean identity?", "identit")
	check(`"other" is not listed in `+info+"; add it there, or use data_path: FILE", "far", "other")
	check(`"none" has no file_name in `+info+"; add one", "none")
	check(`"identity" needs `+filepath.Join(dir, "identity.json")+", which does not exist; put it there, or mend dataset_info.json", "identity")
	write(t, dir, "identity.json", "[]")
	check("", "identity", "far")
	if Remote(dir, []string{"identity"}) || !Remote(dir, []string{"identity", "far"}) || !Remote(filepath.Join(dir, "x"), []string{"identity"}) {
		t.Error("Remote tells hub and disk apart wrongly")
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzSniff(f *testing.F) {
	for _, s := range []string{
		`[{"instruction":"a","input":"","output":"b"}]`, `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}` + "\n",
		`[{"conversations":[{"from":"human","value":"a"}],"chosen":{"from":"gpt","value":"b"},"rejected":{"from":"gpt","value":"c"}}]`,
		`{"text":"a"}`, `[`, `{"a":{"b":[1,2,{"c":null}]}}`, `{"prompt":"a","chosen":"b","rejected":"c"}`, "a,b\n1,2\n", "\x0b\x00\x00\x00instruction", `[{"label":true,"instruction":1,"output":2}]`,
	} {
		for _, kind := range []string{"json", "csv", "columnar", "text"} {
			f.Add(kind, []byte(s), true)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, head []byte, cut bool) {
		var info *Info
		var err error
		switch kind {
		case "json":
			var record map[string]json.RawMessage
			if record, err = firstRecord(head, cut); err == nil {
				info, err = describe(columnsOf(record), record)
			}
		case "csv":
			var columns []string
			if columns, err = csvColumns(head); err == nil {
				info, err = describe(columns, nil)
			}
		case "columnar":
			info, err = describe(columnarNames(head), nil)
		default:
			info, err = describe(nil, nil)
		}
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) || strings.ContainsAny(err.Error(), "\n\r\x00\x1b") || len(err.Error()) > 2000 {
				t.Fatalf("refusal %q", err)
			}
			return
		}
		info.Path = "/d/a.json"
		file, err := InfoFile([]*Info{info}, "sft")
		if err != nil {
			t.Fatal(err)
		}
		var listing map[string]map[string]any
		if err := json.Unmarshal(file, &listing); err != nil || len(info.Stages()) == 0 {
			t.Fatalf("own listing: %v\n%s", err, file)
		}
		for _, column := range listing["fettle_0"]["columns"].(map[string]any) {
			if name := column.(string); name != "text" && !slices.Contains(info.Columns, name) {
				t.Fatalf("names column %q, which is not there: %s", name, file)
			}
		}
	})
}
