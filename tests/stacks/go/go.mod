module wsroll.dev/stacks

go 1.25

require (
	github.com/coder/websocket v1.8.15
	github.com/gorilla/websocket v1.5.3
)
