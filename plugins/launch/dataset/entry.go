package dataset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// InfoName is the file in which the trainer looks data up.
const InfoName = "dataset_info.json"

// names are the columns that say something about a record's layout.
var names = []string{
	"conversations", "messages", "instruction", "input", "output", "prompt", "response", "completion", "question", "answer", "query",
	"chosen", "rejected", "kto_tag", "label", "text", "content", "system", "tools", "history", "images", "videos", "audios",
}

// entry is one record of dataset_info.json.
type entry struct {
	FileName   string            `json:"file_name"`
	Formatting string            `json:"formatting,omitempty"`
	Ranking    bool              `json:"ranking,omitempty"`
	Columns    map[string]string `json:"columns,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
}

// describe settles the layout from the column names and, for conversations, the first record itself.
func describe(columns []string, record map[string]json.RawMessage) (*Info, error) {
	info := &Info{Columns: columns, Format: "alpaca"}
	has := func(name string) bool { return slices.Contains(columns, name) }
	use := map[string]string{}
	for _, extra := range []string{"system", "tools", "images", "videos", "audios"} {
		if has(extra) {
			use[extra] = extra
			info.Media = info.Media || extra != "system" && extra != "tools"
		}
	}
	pairs := has("chosen") && has("rejected")
	if pairs {
		use["chosen"], use["rejected"] = "chosen", "rejected"
		info.Pairs = true
	}
	for _, tag := range []string{"kto_tag", "label"} {
		if has(tag) && !pairs && isBool(record, tag) {
			use["kto_tag"] = tag
			info.Labels = true
		}
	}
	switch {
	case has("conversations") || has("messages"):
		info.Format = "sharegpt"
		column := "conversations"
		if !has(column) {
			column = "messages"
		}
		use["messages"] = column
		tags, err := turnTags(record[column], column)
		if err != nil {
			return nil, err
		}
		if pairs && record != nil && !isObject(record["chosen"]) {
			return nil, &Refusal{"holds conversations whose chosen answer is no message", "write chosen and rejected as one message each"}
		}
		info.entry = entry{Formatting: info.Format, Ranking: pairs, Columns: use, Tags: tags}
		return info, nil
	case columns == nil:
		// Lines of plain text.
		info.PlainText = true
		info.entry = entry{Columns: map[string]string{"prompt": "text"}}
		return info, nil
	}
	prompt := pick(has, "instruction", "prompt", "question", "query")
	answer := pick(has, "output", "response", "completion", "answer")
	switch {
	case pairs && prompt == "" && record != nil && isArray(record["chosen"]):
		return nil, &Refusal{"holds whole conversations as chosen and rejected", "put the common turns into a column conversations"}
	case pairs && prompt != "" && record != nil && isArray(record["chosen"]):
		return nil, &Refusal{"holds lists as chosen and rejected", "write them as texts"}
	case pairs && prompt != "":
		use["prompt"] = prompt
	case prompt != "" && answer != "":
		use["prompt"], use["response"] = prompt, answer
		if record != nil && isArray(record[prompt]) {
			return nil, &Refusal{fmt.Sprintf("holds lists in its column %s", prompt), "name the column messages if it holds conversations"}
		}
	case has("text") || has("content"):
		info.PlainText = true
		info.entry = entry{Columns: map[string]string{"prompt": pick(has, "text", "content")}}
		return info, nil
	default:
		return nil, &Refusal{"has records of an unknown layout, with the columns " + listed(columns), "name them instruction and output, or messages, or chosen and rejected, or text"}
	}
	if has("input") {
		use["query"] = "input"
	}
	if has("history") {
		use["history"] = "history"
	}
	info.entry = entry{Ranking: pairs, Columns: use}
	return info, nil
}

func pick(has func(string) bool, names ...string) string {
	for _, n := range names {
		if has(n) {
			return n
		}
	}
	return ""
}

// turnTags answers how the turns of a conversation name their parts. Without a record to look at, conversations are taken
// as the trainer's default has them and messages as chat services have them.
func turnTags(raw json.RawMessage, column string) (map[string]string, error) {
	tags := map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system", "observation_tag": "observation", "function_tag": "function_call"}
	chat := map[string]string{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool", "function_tag": "function_call"}
	if raw == nil {
		if column == "messages" {
			return chat, nil
		}
		return nil, nil
	}
	var turns []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &turns); err != nil || len(turns) == 0 {
		return nil, &Refusal{fmt.Sprintf("has a first record whose %s are no list of turns", column), "write a list of {role, content} or {from, value}"}
	}
	_, from := turns[0]["from"]
	_, role := turns[0]["role"]
	switch {
	case from:
	case role:
		tags["role_tag"] = "role"
	default:
		return nil, &Refusal{fmt.Sprintf("has turns in %s that name no speaker, only %s", column, listed(slices.Sorted(maps.Keys(turns[0])))), "give each turn role and content, or from and value"}
	}
	if _, ok := turns[0]["content"]; ok {
		tags["content_tag"] = "content"
	} else if _, ok := turns[0]["value"]; !ok {
		return nil, &Refusal{fmt.Sprintf("has turns in %s without a text, only %s", column, listed(slices.Sorted(maps.Keys(turns[0])))), "give each turn role and content, or from and value"}
	}
	known := map[string]map[string]string{
		"user_tag":      {"human": "human", "user": "user"},
		"assistant_tag": {"gpt": "gpt", "assistant": "assistant", "model": "model", "bot": "bot"},
		// What tools answer, and how they are called.
		"observation_tag": {"observation": "observation", "tool": "tool"},
		"function_tag":    {"function_call": "function_call", "function": "function"},
	}
	seen := map[string]bool{}
	for _, turn := range turns {
		var speaker string
		if json.Unmarshal(turn[tags["role_tag"]], &speaker) != nil {
			continue
		}
		for tag, speakers := range known {
			if speakers[speaker] != "" {
				tags[tag] = speaker
				seen[tag] = true
			}
		}
	}
	if !seen["user_tag"] && !seen["assistant_tag"] {
		return nil, &Refusal{fmt.Sprintf("has turns in %s whose speakers are neither user and assistant nor human and gpt", column), "rename the speakers"}
	}
	// One conversation may lack a side; both are then named alike.
	if !seen["assistant_tag"] && tags["user_tag"] == "user" {
		tags["assistant_tag"] = "assistant"
	}
	if !seen["user_tag"] && tags["assistant_tag"] != "gpt" {
		tags["user_tag"] = "user"
	}
	return tags, nil
}

func isBool(record map[string]json.RawMessage, column string) bool {
	if record == nil {
		return column == "kto_tag"
	}
	v := string(bytes.TrimSpace(record[column]))
	return v == "true" || v == "false"
}

func isArray(raw json.RawMessage) bool { return len(raw) > 0 && bytes.TrimSpace(raw)[0] == '[' }

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && bytes.TrimSpace(raw)[0] == '{' }

func listed(columns []string) string {
	if len(columns) == 0 {
		return "none"
	}
	short := make([]string, 0, 9)
	for _, c := range columns {
		if len(short) == 8 {
			short = append(short, "…")
			break
		}
		short = append(short, strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, clip(c)))
	}
	return strings.Join(short, ", ")
}

// InfoFile writes the dataset_info.json for data under the names that Name gives, for a training stage.
func InfoFile(infos []*Info, stage string) ([]byte, error) {
	out := make(map[string]entry, len(infos))
	for i, info := range infos {
		e := info.entry
		e.FileName = info.Path
		if stage != "kto" {
			// Elsewhere the trainer would take a label for a verdict on the answer.
			e.Columns = maps.Clone(e.Columns)
			delete(e.Columns, "kto_tag")
		}
		out[Name(i)] = e
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", InfoName, err)
	}
	return append(data, '\n'), nil
}

// Name is the name under which InfoFile lists the data at an index.
func Name(i int) string { return fmt.Sprintf("fettle_%d", i) }

// Unseen describes data that cannot be looked at from here but whose path is known.
func Unseen(path string) *Info { return &Info{Path: path, Format: "alpaca"} }
