package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ScanJobs is ListJobs for long lists: row is called with one job after the other, and the job it is given holds only
// what a table shows (see JobView) and only until row returns: what is to be kept must be copied. It costs no memory per
// job. The header is that of the first piece.
func (c *Client) ScanJobs(ctx context.Context, req *fettlev1.ListJobsRequest, row func(j *fettlev1.Job) error) (*fettlev1.Header, error) {
	var header *fettlev1.Header
	var view JobView
	err := c.list(ctx, req, func(ctx context.Context, cc grpc.ClientConnInterface, req *fettlev1.ListJobsRequest) (func() (int, uint64, error, error), error) {
		stream, err := cc.NewStream(ctx, &grpc.StreamDesc{StreamName: "ListJobs", ServerStreams: true},
			fettlev1.ControllerService_ListJobs_FullMethodName, grpc.ForceCodecV2(pageCodec{}))
		if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := stream.CloseSend(); err != nil {
			return nil, err
		}
		return func() (n int, last uint64, stop, err error) {
			var page []byte
			if err := stream.RecvMsg(&page); err != nil {
				return 0, 0, nil, err
			}
			err = eachJob(page, func(b []byte) error {
				h := &fettlev1.Header{}
				if err := proto.Unmarshal(b, h); err != nil {
					return err
				}
				if header == nil {
					header = h
				}
				return nil
			}, func(b []byte) error {
				j, err := view.Decode(b)
				if err != nil {
					return err
				}
				n, last = n+1, j.GetId()
				if stop == nil {
					stop = row(j)
				}
				return nil
			})
			return n, last, stop, err
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return header, nil
}

// eachJob walks over an encoded ListJobsResponse.
func eachJob(page []byte, header, job func([]byte) error) error {
	for len(page) > 0 {
		num, typ, n := protowire.ConsumeTag(page)
		if n < 0 {
			return protowire.ParseError(n)
		}
		page = page[n:]
		if typ != protowire.BytesType || num != 1 && num != 2 {
			if n = protowire.ConsumeFieldValue(num, typ, page); n < 0 {
				return protowire.ParseError(n)
			}
			page = page[n:]
			continue
		}
		b, n := protowire.ConsumeBytes(page)
		if n < 0 {
			return protowire.ParseError(n)
		}
		page = page[n:]
		f := header
		if num == 2 {
			f = job
		}
		if err := f(b); err != nil {
			return err
		}
	}
	return nil
}

// pageCodec leaves answers as bytes. It speaks protobuf on the wire like the standard codec.
type pageCodec struct{}

func (pageCodec) Name() string { return "proto" }

func (pageCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := proto.Marshal(v.(proto.Message))
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (pageCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
