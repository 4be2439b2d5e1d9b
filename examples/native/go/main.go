// A chat room whose members come back where they left: history is numbered, and a client says what it has.
// ws://HOST:8080/ws?sid=NAME[&last=N][&wsroll=1]
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

type said struct {
	Type string `json:"type"`
	Seq  int    `json:"seq"`
	ID   string `json:"id"`
	Text string `json:"text"`
}

// In memory, so it dies with the pod. A real service keeps it in a store that all revisions share.
var (
	mutex   sync.Mutex
	history = map[string][]said{}
)

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func secret(name, file string) string {
	text, _ := os.ReadFile(env(name, file))
	return string(text)
}

func main() {
	revision := env("WSROLL_REVISION", "dev")
	token := secret("WSROLL_TOKEN_FILE", "/var/run/wsroll/token")
	drain := NewDrain(token, secret("WSROLL_IDENTITY_KEY_FILE", "/var/run/wsroll/identity-key"), revision)
	if token != "" { // without one nobody may give orders: the port is not served
		port := http.Server{Addr: ":" + env("WSROLL_PORT", "9911"), Handler: drain, ReadTimeout: 10 * time.Second}
		go func() { log.Fatal(port.ListenAndServe()) }()
	}
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { chat(w, r, drain, revision) })
	server := http.Server{Addr: ":" + env("PORT", "8080"), ReadHeaderTimeout: 10 * time.Second}
	go func() { log.Fatal(server.ListenAndServe()) }()
	// wsroll deletes a pod when it is empty, so this is for everybody else: an ordinary deploy, a node that goes.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
}

func chat(w http.ResponseWriter, r *http.Request, drain *Drain, revision string) {
	socket, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer socket.CloseNow()
	socket.SetReadLimit(16 << 10)
	query := r.URL.Query()
	sid := query.Get("sid")
	if sid == "" {
		sid = rand.Text()
	}
	last, _ := strconv.Atoi(query.Get("last"))
	mutex.Lock()
	log, known := history[sid]
	history[sid] = log
	mutex.Unlock()

	// One writer: nothing that is said stands behind a socket that nobody reads.
	out := make(chan []byte, 64)
	ctx, done := context.WithCancel(context.Background())
	defer done()
	send := func(text []byte) {
		select {
		case out <- text:
		default: // reads too slowly
			done()
		}
	}
	closeWith := make(chan struct {
		code   int
		reason string
	}, 1)
	session := &Session{Identity: sid, Declared: query.Get("wsroll") == "1", Resume: &Resume{sid, 900_000}, Send: send,
		Close: func(code int, reason string) {
			select {
			case closeWith <- struct {
				code   int
				reason string
			}{code, reason}:
			default:
			}
		}}
	if last > 0 {
		session.Resumed = &known
	}
	drain.Add(session)
	code := 1006
	defer func() { drain.Remove(session, code) }()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for {
			select {
			case text := <-out:
				writing, cancel := context.WithTimeout(ctx, 10*time.Second)
				_ = socket.Write(writing, websocket.MessageText, text)
				cancel()
			case with := <-closeWith:
				for len(out) > 0 {
					_ = socket.Write(ctx, websocket.MessageText, <-out)
				}
				_ = socket.Close(websocket.StatusCode(with.code), with.reason)
				return
			case <-ctx.Done():
				return
			}
		}
	}()

	tell := func(message any) {
		text, _ := json.Marshal(message)
		send(text)
	}
	tell(map[string]any{"type": "welcome", "session": sid, "resumed": known, "revision": revision})
	for _, line := range log {
		if line.Seq > last {
			tell(line)
		}
	}
	for {
		_, text, err := socket.Read(ctx)
		if err != nil {
			if status := websocket.CloseStatus(err); status > 0 {
				code = int(status)
			}
			break
		}
		var message said
		if json.Unmarshal(text, &message) != nil {
			continue
		}
		if message.Type == "wsroll.ack" {
			drain.Ack(session, message.ID)
		} else if line := say(sid, message); message.Type == "say" && line != nil {
			tell(line)
		}
	}
	done()
	<-written
}

// say applies a message once; nil for a repeat.
func say(sid string, message said) *said {
	mutex.Lock()
	defer mutex.Unlock()
	log := history[sid]
	if slices.ContainsFunc(log, func(line said) bool { return line.ID == message.ID }) {
		return nil
	}
	line := said{Type: "message", Seq: 1, ID: message.ID, Text: message.Text}
	if len(log) > 0 {
		line.Seq = log[len(log)-1].Seq + 1
	}
	history[sid] = append(log[max(0, len(log)-99):], line)
	return &line
}
