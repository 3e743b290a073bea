package main

import "testing"

func TestParseBenchmarks(t *testing.T) {
	t.Parallel()
	list, err := parseBenchmarks([]byte("goos: linux\npkg: x\nBenchmarkFull/mixed  \t       3\t1054282847 ns/op\nBenchmarkStarts/1000\t 3\t10129413 ns/op\t 98731.5 starts/s\nPASS\nok  \tx\t15.2s\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].name != "Full/mixed" || list[0].duration() != 1054282847 || list[1].of["starts/s"] != 98731.5 {
		t.Errorf("read %v", list)
	}
	if _, err := parseBenchmarks([]byte("BenchmarkX 1 fast ns/op\n")); err == nil {
		t.Error("a line without a number was read")
	}
}
