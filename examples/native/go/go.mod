module wsroll.dev/examples/native

go 1.25

require github.com/coder/websocket v1.8.14
