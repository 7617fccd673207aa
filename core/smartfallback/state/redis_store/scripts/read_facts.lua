-- Reads the facts of many subjects, leaving out those that the reader knows already: of a thousand
-- subjects hardly any changed since the last look, and what isn't sent needn't be taken apart.
--
-- KEYS     hashes: each subject's facts by name (in a cluster one key a call)
-- ARGV     the most names and the most bytes of a row that are read; then for each key the digest
--          of what the reader knows, "" for nothing
-- Reply    for each key that differs: its place among the keys, its digest, names and rows in turn

local most_names, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])

local reply = {}
for place, key in ipairs(KEYS) do
  local rows, digest = {}, ''
  local count = redis.pcall('HLEN', key) -- an error for what is no hash, which has no facts
  if type(count) == 'number' and count > 0 and count <= most_names then
    rows = redis.call('HGETALL', key)
    digest = redis.sha1hex(table.concat(rows, '\0'))
  end
  if digest ~= ARGV[place + 2] then
    local read = {}
    for name = 1, #rows, 2 do
      if #rows[name + 1] <= most_bytes then
        read[#read + 1] = rows[name]
        read[#read + 1] = rows[name + 1]
      end
    end
    reply[#reply + 1] = {place, digest, read}
  end
end
return reply
