// An echo service with gorilla/websocket and sessions with coder/websocket, nothing of wsroll:
// "server PORT" or "client URL SESSIONS". What happens is told in lines of JSON.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

var output sync.Mutex

func say(event map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		log.Fatal(err)
	}
}

func fail(err error) {
	say(map[string]any{"event": "error", "error": err.Error()})
	os.Exit(1)
}

func main() {
	switch os.Args[1] {
	case "server":
		serve(os.Args[2])
	case "client":
		count, err := strconv.Atoi(os.Args[3])
		if err != nil {
			log.Fatal(err)
		}
		for session := range count {
			go live(os.Args[2], session)
		}
		select {}
	}
}

func serve(port string) {
	upgrader := gorilla.Upgrader{Subprotocols: []string{"chat.v2"}, EnableCompression: true}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // Upgrade has answered
		}
		defer socket.Close()
		for {
			kind, message, err := socket.ReadMessage()
			if err != nil {
				code := gorilla.CloseAbnormalClosure
				if closed := (*gorilla.CloseError)(nil); errors.As(err, &closed) {
					code = closed.Code
				}
				say(map[string]any{"event": "ended", "code": code})
				return
			}
			if socket.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	say(map[string]any{"event": "ready"})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}

func live(url string, session int) {
	for turn := 0; ; turn++ {
		visit(url, session, turn)
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
	}
}

func visit(url string, session, turn int) {
	ctx := context.Background()
	socket, answer, err := websocket.Dial(ctx, fmt.Sprintf("%s/chat?session=go-%d", url, session), &websocket.DialOptions{
		Subprotocols:    []string{"chat.v1", "chat.v2"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return // refused while nobody is there: tried again
	}
	defer socket.CloseNow()
	socket.SetReadLimit(1 << 26)
	if session == 0 && turn == 0 {
		if err := check(ctx, socket, answer); err != nil {
			fail(err)
		}
	}
	if err = echo(ctx, socket, websocket.MessageText, []byte(fmt.Sprint("hello from ", session))); err == nil {
		say(map[string]any{"event": "open", "session": session})
	}
	for err == nil {
		err = echo(ctx, socket, websocket.MessageText, []byte(fmt.Sprint("still ", session)))
		time.Sleep(100 * time.Millisecond)
	}
	if errors.Is(err, errDiffers) {
		fail(err)
	}
	code := int(websocket.CloseStatus(err))
	if code < 0 {
		code = gorilla.CloseAbnormalClosure
	}
	say(map[string]any{"event": "closed", "session": session, "code": code})
}

var errDiffers = errors.New("the echo differs")

func echo(ctx context.Context, socket *websocket.Conn, kind websocket.MessageType, data []byte) error {
	if err := socket.Write(ctx, kind, data); err != nil {
		// The close frame that came before is what the reader finds.
		_, _, read := socket.Read(ctx)
		if websocket.CloseStatus(read) >= 0 {
			return read
		}
		return err
	}
	answered, answer, err := socket.Read(ctx)
	if err != nil {
		return err
	}
	if answered != kind || !bytes.Equal(answer, data) {
		return errDiffers
	}
	return nil
}

func check(ctx context.Context, socket *websocket.Conn, answer *http.Response) error {
	large := bytes.Repeat([]byte("large message "), 1<<16)
	if err := errors.Join(
		echo(ctx, socket, websocket.MessageText, []byte("text: žluťoučký kůň")),
		echo(ctx, socket, websocket.MessageBinary, []byte{0, 1, 2, 254, 255}),
		echo(ctx, socket, websocket.MessageBinary, large),
		echo(ctx, socket, websocket.MessageText, nil),
	); err != nil {
		return err
	}
	if extensions := answer.Header.Get("Sec-WebSocket-Extensions"); !strings.Contains(extensions, "permessage-deflate") {
		return fmt.Errorf("no compression: %q", extensions)
	}
	if socket.Subprotocol() != "chat.v2" {
		return fmt.Errorf("subprotocol %q", socket.Subprotocol())
	}
	// A pong is found by a reader, so one reads while the ping waits; the echo ends it.
	read := make(chan error, 1)
	go func() {
		_, _, err := socket.Read(ctx)
		read <- err
	}()
	if err := socket.Ping(ctx); err != nil {
		return err
	}
	if err := socket.Write(ctx, websocket.MessageText, []byte("done")); err != nil {
		return err
	}
	if err := <-read; err != nil {
		return err
	}
	say(map[string]any{"event": "checked"})
	return nil
}
