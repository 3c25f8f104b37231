// A Sentinel client in another language: reads the Secret's values as JSON from standard input, writes numbers to the sorted
// set that the first argument names until SIGTERM, and prints one acknowledged number a line.
const Redis = require("ioredis");
const secret = JSON.parse(require("fs").readFileSync(0, "utf8"));
const sentinels = secret.sentinels.split(",").map((one) => {
  const [host, port] = one.split(":");
  return { host, port: Number(port) };
});
const tls = { ca: secret["ca.crt"] };
const login = { username: secret.username, password: secret.password };
const redis = new Redis({
  sentinels,
  name: secret.masterName,
  ...login,
  sentinelUsername: login.username,
  sentinelPassword: login.password,
  ...(secret["ca.crt"] && { tls, sentinelTLS: tls, enableTLSForSentinelMode: true }),
  connectTimeout: 200,
  retryStrategy: () => 20,
  sentinelRetryStrategy: () => 20,
  maxRetriesPerRequest: 0,
  reconnectOnError: (error) => error.message.startsWith("READONLY"),
});
redis.on("error", () => {});
let going = true;
process.on("SIGTERM", () => (going = false));
(async () => {
  for (let number = 1; going; number++) {
    try {
      await redis.zadd(process.argv[2], number, number);
      console.log(number);
    } catch {
      // Not acknowledged.
    }
    await new Promise((done) => setTimeout(done, 5));
  }
  redis.disconnect();
})();
