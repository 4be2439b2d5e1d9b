// A service with `graphql-ws` as its documentation shows it; it lets in whoever has the token.
'use strict';
const { createServer } = require('node:http');
const { GraphQLObjectType, GraphQLSchema, GraphQLString } = require('graphql');
const { useServer } = require('graphql-ws/use/ws');
const { WebSocketServer } = require('ws');

const [port] = process.argv.slice(2);
const query = new GraphQLObjectType({
  name: 'Query',
  fields: { hello: { type: GraphQLString, resolve: () => 'world' } },
});
const http = createServer();
const server = new WebSocketServer({ server: http, path: '/graphql' });
useServer(
  {
    schema: new GraphQLSchema({ query }),
    onConnect: (context) => context.connectionParams?.Authorization === 'Bearer a-token',
  },
  server,
);
http.listen(Number(port), '127.0.0.1', () => console.log(JSON.stringify({ event: 'ready' })));
