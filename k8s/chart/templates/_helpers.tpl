{{- define "flowcar.labels" -}}
app.kubernetes.io/name: flowcar
app.kubernetes.io/component: controller
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "flowcar.selector" -}}
app.kubernetes.io/name: flowcar
app.kubernetes.io/component: controller
{{- end }}

{{- define "flowcar.image" -}}
{{- .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* The names that the API server asks for: the Service's, and the host of webhook.url, without its port. */}}
{{- define "flowcar.hosts" -}}
{{- $hosts := list (printf "flowcar-webhook.%s.svc" .Release.Namespace) }}
{{- with .Values.webhook.url }}
{{- $hosts = append $hosts (regexReplaceAll "(^\\[|\\]$)" (regexReplaceAll ":[0-9]*$" (urlParse .).host "") "") }}
{{- end }}
{{- $hosts | uniq | toJson }}
{{- end }}

{{- define "flowcar.clientConfig" -}}
{{- if .Values.webhook.url -}}
url: {{ .Values.webhook.url | quote }}
{{- else -}}
service:
  name: flowcar-webhook
  namespace: {{ .Release.Namespace }}
  path: /admit
  port: 443
{{- end }}
{{- end }}

{{- /* The operator's selector, and what a webhook adds to it. Where no answer means no pod, flowcar's own namespace is
left out, or its controller could never start again. Takes (list root labels). */}}
{{- define "flowcar.namespaceSelector" -}}
{{- $root := index . 0 }}
{{- $selector := deepCopy (default dict $root.Values.webhook.namespaceSelector) }}
{{- with index . 1 }}
{{- $_ := set $selector "matchLabels" (mergeOverwrite (default dict $selector.matchLabels) .) }}
{{- end }}
{{- if eq $root.Values.webhook.failurePolicy "Fail" }}
{{- $own := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (list $root.Release.Namespace) }}
{{- $_ := set $selector "matchExpressions" (append (default list $selector.matchExpressions) $own) }}
{{- end }}
{{- with $selector }}
namespaceSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Cluster-wide objects have fixed names, and two webhooks would both inject. flowcar's is known by its first webhook,
as its own name is the operator's choice. */}}
{{- define "flowcar.onlyOne" -}}
{{- range (lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" "").items }}
{{- $annotations := default dict .metadata.annotations }}
{{- $release := get $annotations "meta.helm.sh/release-name" }}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" }}
{{- $isOther := and $release (or (ne $release $.Release.Name) (ne $namespace $.Release.Namespace)) }}
{{- range .webhooks }}
{{- if and $isOther (eq .name "pods.flowcar.io") }}
{{- fail (printf "flowcar is installed in this cluster already, as release %s in namespace %s, and there can be one only: upgrade it (helm upgrade %s --namespace %s), or uninstall it first" $release $namespace $release $namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
