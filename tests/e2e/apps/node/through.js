// Names are looked up as ever, but lead to the gateway: as a name service would do it.
const dns = require('node:dns');

module.exports = function through(address) {
  const looked = dns.lookup;
  dns.lookup = (name, options, done) => {
    const then = done ?? options;
    if (!name.endsWith('.example.com')) return looked(name, options, done);
    if (options?.all) return process.nextTick(then, null, [{ address, family: 4 }]);
    return process.nextTick(then, null, address, 4);
  };
};
